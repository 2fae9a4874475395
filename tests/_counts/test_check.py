from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.check import align_genes, check_counts, count_matrix, take_genes


def _adata(X) -> AnnData:
    adata = AnnData(sp.csr_matrix(np.asarray(X, dtype=np.float32)))
    adata.var_names = [f"g{i}" for i in range(adata.n_vars)]
    return adata


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"NaN or infinite values \(gene 'g1'\)"),
        (np.inf, r"NaN or infinite values \(gene 'g1'\)"),
        (-1.0, r"negative values \(gene 'g1'\); raw counts are needed"),
        (0.5, r"non-integer values \(gene 'g1': 0.5\).*looks log-normalised.*layer='counts'"),
    ],
)
def test_each_bad_value_is_named(value, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_counts(_adata([[1, value], [2, 3]]), None)


def test_scaled_values_do_not_look_log_normalised() -> None:
    with pytest.raises(ValueError, match="non-integer") as error:
        check_counts(_adata([[100.5, 1]]), None)
    assert "log-normalised" not in str(error.value)


def test_the_layer_is_named() -> None:
    adata = _adata([[1, 2]])
    adata.layers["bad/one"] = adata.X * 0.3
    with pytest.raises(ValueError, match=r"adata.layers\['bad/one'\] holds non-integer"):
        check_counts(adata, "bad/one")
    with pytest.raises(KeyError, match=r"'nope' is not in adata.layers.*'bad/one'"):
        count_matrix(adata, "nope")


def test_nothing_to_read() -> None:
    with pytest.raises(ValueError, match="every value is zero"):
        check_counts(_adata([[0, 0]]), None)
    with pytest.raises(ValueError, match="0 spots and 2 genes"):
        check_counts(_adata(np.zeros((0, 2))), None)
    with pytest.raises(ValueError, match=r"adata.X is empty"):
        check_counts(AnnData(obs=pd.DataFrame(index=["a"])), None)


def test_duplicate_genes() -> None:
    adata = _adata([[1, 2]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.var_names = ["a", "a"]
    with pytest.raises(ValueError, match=r"'a'.*var_names_make_unique"):
        check_counts(adata, None)


def test_empty_spots_warn_and_totals_are_right() -> None:
    with pytest.warns(UserWarning, match=r"1 of 3 spots have no counts \(the first is '1'\)"):
        summary = check_counts(_adata([[1, 2], [0, 0], [4, 0]]), None)
    assert summary.spot_totals.tolist() == [3, 0, 4]
    assert summary.gene_totals.tolist() == [5, 2]


def test_genes_are_matched_by_name() -> None:
    want, have = pd.Index(list("abcd")), pd.Index(list("dbxa"))
    assert align_genes(want, want) is None
    with pytest.warns(UserWarning, match="1 of the 4 genes of the model are missing"):
        index = align_genes(have, want)
    assert index.tolist() == [3, 1, -1, 0]
    block = take_genes(sp.csr_matrix(np.array([[1, 2, 3, 4], [5, 0, 7, 0]])), index)
    assert block.toarray().tolist() == [[4, 2, 0, 1], [0, 0, 0, 5]]
    assert block.has_sorted_indices


@pytest.mark.parametrize(
    ("have", "want", "reason"),
    [
        (["ENSG1", "ENSG2", "ENSG3"], ["Penk", "Th", "Omp"], "data Ensembl|data use Ensembl ids"),
        (["Penk", "Th", "Omp"], ["ENSG1", "ENSG2", "ENSG3"], "model uses Ensembl ids"),
        (["PENK", "TH", "OMP"], ["Penk", "Th", "Omp"], "Upper and lower case differ"),
        (["x", "y", "z"], ["Penk", "Th", "Omp"], "Only 0 of the 3 genes"),
    ],
)
def test_too_few_genes_say_why(have, want, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        align_genes(pd.Index(have), pd.Index(want))
