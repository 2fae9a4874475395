"""Models of expression and the protocol that explains any encoder."""

from st_concepts.models._encoder import Encoder, FirstLayer
from st_concepts.models._encoder import FeatureMatrix as FeatureMatrix
from st_concepts.models._fitted import NotFittedError
from st_concepts.models._image.gene_vae import GeneVAE
from st_concepts.models._image.image_vae import ImageVAE
from st_concepts.models._info import model_info as model_info
from st_concepts.models._info import titled as titled
from st_concepts.models._section import Section as Section
from st_concepts.models._section import as_encoder as as_encoder
from st_concepts.models._section import informative as informative
from st_concepts.models._spot.vae import SpotVAE
from st_concepts.models._surroundings import Surroundings as Surroundings

# what other folders of the package need stands above as well; users need the names below
__all__ = ["Encoder", "FirstLayer", "GeneVAE", "ImageVAE", "NotFittedError", "SpotVAE"]
