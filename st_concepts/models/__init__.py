"""Models of expression and the protocol that explains any encoder."""

from st_concepts.models._encoder import Encoder, FeatureMatrix, FirstLayer
from st_concepts.models._image.gene_vae import GeneVAE
from st_concepts.models._image.image_vae import ImageVAE
from st_concepts.models._spot.encoder import NotFittedError
from st_concepts.models._spot.vae import SpotVAE

__all__ = ["Encoder", "FeatureMatrix", "FirstLayer", "GeneVAE", "ImageVAE", "NotFittedError", "SpotVAE"]
