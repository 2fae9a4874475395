from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import st_concepts as stc


def by_hand(case, j: int, genes: np.ndarray, curve: str) -> float:
    """Mean score with some genes at the baseline, or they alone not at it; dense, spot by spot."""
    rows = []
    for x in case.x[case.label == j]:
        row = x.copy() if curve == "deletion" else case.mean_out[j].copy()
        row[genes] = (case.mean_out[j] if curve == "deletion" else x)[genes]
        rows.append(row)
    return float(case.score(np.array(rows))[:, j].mean())


@pytest.mark.parametrize("name", ["linear", "hidden"])
def test_curves_are_what_replacing_genes_one_spot_at_a_time_gives(name, request):
    case = request.getfixturevalue(name)
    table = stc.evaluate.faithfulness(case.adata, case.encoder, n_top=(3, 10, 5), n_random=2)
    assert table["concept"].unique().tolist() == ["A", "B/C"]
    assert table["n_genes"].unique().tolist() == [0, 3, 5, 10]
    for j, label in enumerate(["A", "B_C"]):
        top = np.argsort(-case.adata.varm["concept_saliency"][label].to_numpy(), kind="stable")
        rows = table[table["concept"] == case.made.names[j]]
        for row in rows.itertuples():
            assert row.score == pytest.approx(by_hand(case, j, top[: row.n_genes], row.curve), abs=2e-5)
        for curve, sign in (("deletion", -1), ("insertion", 1)):
            part = rows[rows["curve"] == curve]
            score, random = part["score"].to_numpy(), part["score_random"].to_numpy()
            np.testing.assert_allclose(part["effect"], sign * (score - score[0]), atol=1e-12)
            gap = sign * (score - score[0]) - sign * (random - random[0])
            difference = by_hand(case, j, [], "deletion") - by_hand(case, j, [], "insertion")
            area = sum((gap[i] + gap[i + 1]) / 2 * d for i, d in enumerate((3, 2, 5))) / 10 / difference
            assert part["area"].to_numpy() == pytest.approx(area, rel=1e-4)


def test_deleting_salient_genes_takes_away_what_saliency_says(linear):
    # of a linear encoder, the fall of the score is the sum of the integrated gradients
    table = stc.evaluate.faithfulness(linear.adata, linear.encoder, concept="A", n_top=(1, 7))
    top = linear.adata.varm["concept_saliency"]["A"].sort_values(ascending=False)
    for curve in ("deletion", "insertion"):
        effect = table.loc[table["curve"] == curve, "effect"]
        np.testing.assert_allclose(effect, [0, top.iloc[0], top.iloc[:7].sum()], atol=2e-5)


def test_random_genes_are_expressed_ones(linear):
    # all genes but two are silent inside: random genes can only be those, so both curves agree
    case = linear
    quiet = np.setdiff1d(np.arange(30), [4, 9])
    x = case.adata.X.tolil()
    x[np.ix_(np.flatnonzero(case.label == 0), quiet)] = 0
    case.adata.X = sp.csr_matrix(x)
    case.adata.varm["concept_saliency"]["A"] = np.where(np.isin(np.arange(30), [4, 9]), 1.0, 0.0)
    table = stc.evaluate.faithfulness(case.adata, case.encoder, concept="A", n_top=(2,), n_random=3)
    np.testing.assert_allclose(table["score"], table["score_random"], atol=1e-5)
    np.testing.assert_allclose(table["score_random_sd"], 0, atol=1e-6)
    np.testing.assert_allclose(table["ratio"].dropna(), 1, rtol=1e-4)
    with pytest.raises(ValueError, match=r"Only 2 genes are expressed in at least 10% of the spots of 'A'.*asks for 3"):
        stc.evaluate.faithfulness(case.adata, case.encoder, concept="A", n_top=(3,))


def test_all_genes_lead_from_the_spots_to_the_baseline(linear):
    table = stc.evaluate.faithfulness(linear.adata, linear.encoder, n_top=(30,), min_share=0, n_random=1)
    for _, part in table.groupby("concept"):
        ends = part.set_index(["curve", "n_genes"])["score"]
        assert ends["deletion", 30] == pytest.approx(ends["insertion", 0], abs=1e-5)
        assert ends["insertion", 30] == pytest.approx(ends["deletion", 0], abs=1e-5)


def test_baselines_and_seeds(linear):
    run = lambda **kw: stc.evaluate.faithfulness(linear.adata, linear.encoder, n_top=(5,), n_random=3, **kw)  # noqa: E731
    one = run()
    pd.testing.assert_frame_equal(one, run(seed=0))
    assert not one["score_random"].equals(run(seed=1)["score_random"])
    empty = run(baseline="zero").query("curve == 'insertion' and n_genes == 0")["score"].to_numpy()
    np.testing.assert_allclose(empty, linear.score(np.zeros((1, 30)))[0], atol=1e-5)
    profile = np.linspace(0, 1, 30)
    start = run(baseline=profile).query("curve == 'insertion' and n_genes == 0")["score"].to_numpy()
    np.testing.assert_allclose(start, linear.score(profile[None])[0], atol=1e-5)


def test_batches_make_no_difference(linear, monkeypatch):
    from st_concepts.attribution import _explained as _section

    whole = stc.evaluate.faithfulness(linear.adata, linear.encoder, n_top=(5,))
    real = _section.Explained.batches
    monkeypatch.setattr(_section.Explained, "batches", lambda self, **kw: real(self, batch_size=7, **kw))
    parts = stc.evaluate.faithfulness(linear.adata, linear.encoder, n_top=(5,))
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-3, atol=1e-5)


def test_nothing_is_written(linear):
    before = linear.adata.copy()
    stc.evaluate.faithfulness(linear.adata, linear.encoder, n_top=(5,))
    assert set(before.uns) == set(linear.adata.uns)
    pd.testing.assert_frame_equal(before.varm["concept_saliency"], linear.adata.varm["concept_saliency"])


def test_wrong_use(linear):
    a, e = linear.adata, linear.encoder
    with pytest.raises(ValueError, match="n_top and n_random must be at least 1"):
        stc.evaluate.faithfulness(a, e, n_top=())
    with pytest.raises(ValueError, match="n_top and n_random must be at least 1"):
        stc.evaluate.faithfulness(a, e, n_random=0)
    with pytest.raises(KeyError, match="'D' is unknown; there are: A, B/C"):
        stc.evaluate.faithfulness(a, e, concept="D")
    with pytest.raises(ValueError, match="n_top asks for 100 genes, but only 30"):
        stc.evaluate.faithfulness(a, e)
    stc.tl.saliency(a, e, concepts="A")
    with pytest.raises(KeyError, match="no saliency of concept 'B/C', only of A"):
        stc.evaluate.faithfulness(a, e, concept="B/C", n_top=(2,))
    assert stc.evaluate.faithfulness(a, e, n_top=(2,))["concept"].unique().tolist() == ["A"]
    del a.varm["concept_saliency"]
    with pytest.raises(KeyError, match="is missing: run"):
        stc.evaluate.faithfulness(a, e)
