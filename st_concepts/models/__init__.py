"""Models of expression and the protocol that explains any encoder."""

from st_concepts.models._encoder import Encoder, FirstLayer
from st_concepts.models._gene_vae import GeneVAE
from st_concepts.models._image_vae import ImageVAE
from st_concepts.models._spot_encoder import NotFittedError
from st_concepts.models._spot_vae import SpotVAE

__all__ = ["Encoder", "FirstLayer", "GeneVAE", "ImageVAE", "NotFittedError", "SpotVAE"]
