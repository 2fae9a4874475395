"""``stc.io.write``: nothing of the caller's is changed, no source is touched, a kill leaves one of two results."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import st_concepts as stc
from st_concepts import _files
from st_concepts._counts.origins import origins
from st_concepts.io._write import is_store

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
]
SUFFIXES = pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
N = 6


def small(n: int = N) -> AnnData:
    return AnnData(
        sp.csr_matrix(np.arange(n * 3, dtype=np.float32).reshape(n, 3)),
        obs=pd.DataFrame(index=[f"s{i}" for i in range(n)]),
        var=pd.DataFrame(index=list("abc")),
    )


def state(adata: AnnData) -> bytes:
    """Everything of the annotations that a caller could see change."""
    frames = [adata.obs, adata.var, *adata.obsm.values(), *(v for v in adata.uns.values())]
    frames += [] if adata.raw is None else [adata.raw.var]
    kinds = [(f.dtypes.tolist(), f.index.dtype, f.index.name, f.attrs) for f in frames if isinstance(f, pd.DataFrame)]
    held = (adata.obs.to_dict("list"), adata.var.to_dict("list"), copy.deepcopy(dict(adata.uns)))
    return pickle.dumps((kinds, held, list(adata.obs.index), adata.is_view, adata.filename))


# ------------------------------------------------------------------------------------------- the caller's

_text = st.sampled_from(["GCL", "ONL", "", "L2/3", "é", "1"])
_columns = st.one_of(
    st.lists(_text, min_size=N, max_size=N),
    st.lists(st.one_of(_text, st.none()), min_size=N, max_size=N),
    st.lists(st.one_of(st.booleans(), st.none()), min_size=N, max_size=N),
    st.lists(st.one_of(st.integers(-(2**70), 2**70), st.none()), min_size=N, max_size=N),
    st.lists(st.one_of(st.floats(), st.integers(0, 9)), min_size=N, max_size=N),
    st.just([None] * N),
    st.just([np.nan] * N),
    st.lists(st.one_of(_text, st.integers(0, 9), st.floats(), st.booleans(), st.none()), min_size=N, max_size=N),
    st.just([{"a": 1}] * N),
)


def _series(values: list[object], kind: str) -> pd.Series:
    column = pd.Series(values, dtype=object)
    if kind == "category":
        column = column.map(lambda v: v if isinstance(v, str) else None).astype("category")
        return column.cat.add_categories([c for c in ("unused", "never") if c not in column.cat.categories])
    return column


_frame = st.dictionaries(
    st.sampled_from(["layer", "x", "section", "l2"]), st.tuples(_columns, st.sampled_from(["object", "category"]))
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    obs=_frame,
    index=st.sampled_from(["text", "numbers", "repeated", "named"]),
    view=st.booleans(),
    suffix=st.sampled_from([".h5ad"] * 5 + [".zarr"]),
)
def test_nothing_of_the_callers_is_changed(tmp_path, obs, index, view, suffix):
    adata = small()
    frame = pd.DataFrame({key: _series(*column) for key, column in obs.items()}, index=range(N))
    frame.index = {
        "text": [f"s{i}" for i in range(N)],
        "numbers": range(N),
        "repeated": ["s"] * N,
        "named": pd.Index([f"s{i}" for i in range(N)], name="layer"),
    }[index]
    frame.attrs["said"] = "by the user"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs = frame
        adata.obs.attrs["said"] = "by the user"
        adata.var["kind"] = ["one", "one", "two"]
        adata.obsm["table"] = pd.DataFrame({"t": ["a"] * N}, index=adata.obs.index)
        adata.uns["table"] = pd.DataFrame({"t": ["a", "a"]})
        adata.raw = adata
        adata = adata[:, :2] if view else adata
        before, path = state(adata), tmp_path / f"a{suffix}"
        try:
            stc.io.write(adata, path)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017 (most are written)
            assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
        else:
            back = stc.io.read(path)
            assert back.obs_names.tolist() == [str(v) for v in adata.obs_names]
            for key in adata.obs:
                missing = adata.obs[key].isna().to_numpy()
                np.testing.assert_array_equal(back.obs[key].isna(), missing)
                for ours, theirs in zip(back.obs[key][~missing], adata.obs[key][~missing], strict=True):
                    assert ours == theirs
        assert state(adata) == before


def test_columns_of_objects_get_the_type_of_what_they_hold(tmp_path):
    adata = small()
    adata.obs["flag"] = np.array([True, None, False, True, True, None], dtype=object)
    adata.obs["yes"] = np.array([True] * N, dtype=object)
    adata.obs["n"] = np.array([1, None, 3, 4, 5, 2**40], dtype=object)
    adata.obs["empty"] = np.array([None] * N, dtype=object)
    adata.obs["text"] = ["a", None, "b", "a", "b", "a"]
    stc.io.write(adata, tmp_path / "a.h5ad")
    back = stc.io.read(tmp_path / "a.h5ad").obs
    assert [str(back[c].dtype) for c in ("flag", "yes", "n", "empty")] == ["boolean", "bool", "Int64", "float64"]
    assert back["n"].dropna().tolist() == [1, 3, 4, 5, 2**40]
    assert back["text"].tolist()[2:] == ["b", "a", "b", "a"]


@SUFFIXES
def test_columns_that_no_file_can_hold_are_named(tmp_path, suffix):
    def line(adata: AnnData) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            stc.io.write(adata, tmp_path / f"a{suffix}")
        assert os.listdir(tmp_path) == []
        return str(caught.value)

    mixed = small()
    mixed.obs["mix"] = ["a", 1, 2.5, "b", None, "c"]
    assert "obs['mix'] holds values of type float, int, str" in line(mixed)
    twice = small()
    twice.obs = pd.DataFrame(np.zeros((N, 2)), index=twice.obs_names, columns=["x", "x"])
    assert "obs has several columns of the name 'x'" in line(twice)
    number = small()
    number.var[5] = 1.0
    assert "var has a column whose name is no text, 5" in line(number)
    late = small()
    late.uns["thing"] = {"deep": object()}
    assert "cannot be written: " in line(late)
    assert "deep" in line(late)


def test_a_backed_adata_stays_on_its_file(tmp_path):
    first, second = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    adata = small()
    adata.obs["layer"] = ["a", "b"] * 3
    adata.raw = adata
    stc.io.write(adata, first)
    for which in (slice(None), slice(0, 4)):
        backed = ad.read_h5ad(first, backed="r")
        part = backed[which] if which != slice(None) else backed
        stc.io.write(part, second)
        assert Path(backed.filename) == first
        assert (adata.X[which] != stc.io.read(second).X).nnz == 0
        assert stc.io.read(second).raw.shape == part.shape
        assert (backed.X[:].toarray() == adata.X.toarray()).all()
        backed.file.close()


# ------------------------------------------------------------------------------------------- sources


@SUFFIXES
@pytest.mark.parametrize("through", ["directly", "symlink", "hard link", "parent", "child", "backed view"])
def test_a_file_that_is_still_read_is_not_written(tmp_path, suffix, through):
    source = tmp_path / f"in{suffix}"
    adata = small()
    adata.layers["dense"] = np.ones((N, 3))
    stc.io.write(adata, source)
    lazy = ad.experimental.read_lazy(source)
    assert origins(lazy) == {source}
    target = source
    if through == "symlink":
        target = tmp_path / f"link{suffix}"
        target.symlink_to(source)
    elif through == "hard link":
        if suffix == ".zarr":
            pytest.skip("folders have no hard links")
        target = tmp_path / f"link{suffix}"
        os.link(source, target)
    elif through == "parent":
        if suffix == ".h5ad":
            pytest.skip("a file contains nothing")
        lazy = AnnData(lazy.X, uns={})
        inner = tmp_path / "outer.zarr" / "tables" / "table"
        inner.parent.mkdir(parents=True)
        stc.io.write(adata, tmp_path / "outer.zarr" / "tables" / "table.zarr")
        os.rename(tmp_path / "outer.zarr" / "tables" / "table.zarr", inner)
        (tmp_path / "outer.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
        lazy, target = ad.experimental.read_lazy(inner), tmp_path / "outer.zarr"
    elif through == "child":
        if suffix == ".h5ad":
            pytest.skip("a file contains nothing")
        target = source / "new.zarr"
    elif through == "backed view":
        if suffix == ".zarr":
            pytest.skip("zarr is not backed")
        lazy = ad.read_h5ad(source, backed="r")[:3]
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"(is|contains|lies in) a file that adata is read from|no part of a zarr"):
        stc.io.write(lazy, target)
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, object]:
    """Every file below a folder, byte for byte."""
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def test_the_spatialdata_of_a_result_is_never_touched(spatialdata_store: Callable[..., Path], tmp_path: Path) -> None:
    sd = pytest.importorskip("spatialdata", reason="the extra [spatialdata] is not installed")
    path = spatialdata_store(tables=("one", "two"))
    adata, opened = stc.io.read(path, table="one"), sd.read_zarr(path)
    opened["two"].obs["text"] = ["a", "b"] * 20
    before = contents(path)
    (tmp_path / "link.zarr").symlink_to(path)
    for source in (path, opened):
        for target in (path, tmp_path / "link.zarr", path / "new.zarr", path / "tables" / "new.zarr"):
            with pytest.raises(ValueError, match=r"(is|contains|lies in) the source"):
                stc.io.write(adata, target, source=source, table="one")
    assert contents(path) == before
    stc.io.write(adata, tmp_path / "out.zarr", source=opened, table="one")
    assert opened["two"].obs["text"].dtype == object
    assert is_store(tmp_path / "out.zarr")


def test_nothing_is_put_into_the_store_that_counts_are_read_from(tmp_path):
    stc.io.write(stc.datasets.simulated_bulb(n_obs=100, n_vars=110), tmp_path / "in.zarr")
    lazy = ad.experimental.read_lazy(tmp_path / "in.zarr")
    model = stc.SpotVAE(lazy, n_latent=3)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint=.* lies in .*never changed"):
        model.fit(max_epochs=0, progress=False, checkpoint=tmp_path / "in.zarr" / "fit")
    model.fit(max_epochs=0, progress=False)
    stc.tl.concepts(lazy, model, groupby="layer")
    with pytest.raises(ValueError, match=r"store=.* lies in .*never changed"):
        stc.tl.saliency_map(lazy, model, concept="GCL", genes="all", store=tmp_path / "in.zarr" / "map.zarr")
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------------------- what is replaced


@SUFFIXES
def test_only_files_and_stores_are_replaced(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is a pipe"):
        stc.io.write(small(), path)
    path.unlink()
    (path / "obs").mkdir(parents=True)
    (path / "var").mkdir()
    (path / "tables").mkdir()
    (path / "tables" / "thesis.docx").write_text("of the user")
    with pytest.raises(ValueError, match=r"not replaced|is a folder"):
        stc.io.write(small(), path)
    assert (path / "tables" / "thesis.docx").exists()


@pytest.mark.parametrize("where", [".", "obs", "layers"])
@pytest.mark.parametrize("thing", ["file", "folder", "link"])
def test_a_store_that_holds_something_else_is_not_replaced(tmp_path, where, thing):
    path = tmp_path / "a.zarr"
    stc.io.write(small(), path)
    assert is_store(path)
    other = path / where / "notes.txt"
    if thing == "file":
        other.write_text("of the user")
    elif thing == "folder":
        other.mkdir()
        (other / "a").write_text("of the user")
    else:
        other.symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt, which is no part of a zarr store"):
        stc.io.write(small(), path)
    assert os.path.lexists(other)


KILLED = """
import os, shutil, signal, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import anndata as ad, numpy as np
import st_concepts as stc
from st_concepts._files import swap, whole
import st_concepts.io
folder = Path(sys.argv[1])
if sys.argv[2] == "journal":
    swap._system_call = lambda: None

def made(value):
    return ad.AnnData(np.full((3, 2), value, dtype=np.float32))

def killed_at(path, step):
    calls = []
    def counted(call):
        def stops(*args, **kwargs):
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(1)
            return call(*args, **kwargs)
        return stops
    class System:  # zarr renames as well
        rename, replace = staticmethod(counted(os.rename)), staticmethod(counted(os.replace))
        def __getattr__(self, name):
            return getattr(os, name)
    swap.os = System()
    for module, name in ((swap, "exchange"), (swap, "remove"), (whole, "remove"), (whole, "put")):
        setattr(module, name, counted(getattr(module, name)))
    stc.io.write(made(2), path)

stc.io.write(made(1), folder / "old.zarr")
for step in range(50):
    path = folder / str(step) / "b.zarr"
    shutil.copytree(folder / "old.zarr", path)
    child = os.fork()
    if not child:
        killed_at(path, step)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        print(step)
        sys.exit(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("way", ["system call", "journal"])
def test_a_store_is_read_whatever_moment_its_writer_was_killed_at(tmp_path, way):
    env = {**os.environ, "PYTHONPATH": str(Path(_files.__file__).parents[2])}
    argv = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), way]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    seen = []
    for step in range(int(done.stdout) + 1):
        seen.append(int(stc.io.read(tmp_path / str(step) / "b.zarr").X[0, 0]))
        _files.sweep(tmp_path / str(step))  # what every write begins with
        assert os.listdir(tmp_path / str(step)) == ["b.zarr"]
    assert len(seen) >= 4
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}
