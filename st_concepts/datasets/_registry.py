"""What can be loaded, from where, under which licence: one frozen record per file and per data set."""

from __future__ import annotations

from typing import NamedTuple


class RemoteFile(NamedTuple):
    """A file of an upstream repository, pinned by commit and by content."""

    name: str
    repository: str
    commit: str
    path: str
    sha256: str
    licence: str

    @property
    def url(self) -> str:
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}{self.name}"


class Section(NamedTuple):
    """The files of one replicate of the olfactory bulb; ``table`` names the matrix inside an RData file."""

    counts: str
    annotation: str
    image: str
    table: str | None
    n_obs: int
    n_vars: int


LAYERS = ("ONL", "GL", "OPL", "MCL", "GCL")

# the labels as the annotation files spell them, from the surface of the bulb inwards
LAYER_NAMES = {
    "Olfactory nerve layer": "ONL",
    "Glomerular layer": "GL",
    "Outer Plexiform Layer": "OPL",
    "Mitral Cell Layer": "MCL",
    "Granular Cell Layer": "GCL",
}

# five colours of Okabe and Ito, told apart in the common colour-vision deficiencies; from light (surface) to dark, so
# that they are ordered in grey too, and neighbouring layers differ in hue
LAYER_COLORS = ("#f0e442", "#56b4e9", "#009e73", "#d55e00", "#0072b2")

_SPLOTCH = "tare/Splotch", "5792958513c67742a7bbe60f80959bf8ddd23dc1"
_LAYERS_AT = "tutorials/olfactory_bulb_st/annotations/"
_IMAGES_AT = "tutorials/olfactory_bulb_st/images/"

FILES: dict[str, RemoteFile] = {
    file.name: file
    for file in (
        RemoteFile(
            "MOB.RData",
            "ludvigla/spaceST",
            "d9ecf52852cb98869a686b436af428c652fc3713",
            "data/",
            "c61a16d93fdb5c819f9b78d6000b7d8601149a313c1c431dd079ad15d12cce59",
            "not stated",
        ),
        RemoteFile(
            "Rep11_MOB_count_matrix-1.tsv.gz",
            "almaan/sepal",
            "9befea4b8960cb3cb6f09634886f3b57e8c56bcb",
            "compare/spark-raw_data/",
            "0175746640070e759d352997a70720390d71f2a8a74bcc2d6865b80112ff48f2",
            "MIT",
        ),
        RemoteFile(
            "01_01.tsv",
            *_SPLOTCH,
            _LAYERS_AT,
            "68c38c3409d9ae8a4c257ead191eac538a1295152446c94d89c55e0f788e0be9",
            "BSD-3-Clause",
        ),
        RemoteFile(
            "02_01.tsv",
            *_SPLOTCH,
            _LAYERS_AT,
            "7ecf4da4893cd9b3a178e555e3df253d16fe27a8882549323dcf93567cc5643b",
            "BSD-3-Clause",
        ),
        RemoteFile(
            "11_01.tsv",
            *_SPLOTCH,
            _LAYERS_AT,
            "2db0ecaf0485002929ee1a4fae50bf77ba2e31162dabd8b5c257d8f63464bce2",
            "BSD-3-Clause",
        ),
        RemoteFile(
            "01.jpg",
            *_SPLOTCH,
            _IMAGES_AT,
            "28ec3f2b342817d34debf9c851ebe788e83d8e25eddb88b3194cfa6904ee6dbe",
            "BSD-3-Clause",
        ),
        RemoteFile(
            "02.jpg",
            *_SPLOTCH,
            _IMAGES_AT,
            "284e9c875ffda384f6b40e1cea2eb3ba3cf082575fe738a067c313bc8034b435",
            "BSD-3-Clause",
        ),
        RemoteFile(
            "11.jpg",
            *_SPLOTCH,
            _IMAGES_AT,
            "91a9bcd71eea3008363705c44448f499400c92b1b16ab44dba0fc584e2ddef8e",
            "BSD-3-Clause",
        ),
    )
}

SECTIONS: dict[int, Section] = {
    1: Section("MOB.RData", "01_01.tsv", "01.jpg", "MOB1", 267, 16573),
    2: Section("MOB.RData", "02_01.tsv", "02.jpg", "MOB2", 280, 15981),
    11: Section("Rep11_MOB_count_matrix-1.tsv.gz", "11_01.tsv", "11.jpg", None, 262, 16218),
}
