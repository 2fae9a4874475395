"""Checks that a user can run: whether saliency follows the model, and whether it would come out the same again."""

from st_concepts.evaluate._calibration import calibration
from st_concepts.evaluate._faithfulness import faithfulness
from st_concepts.evaluate._markers import marker_recovery
from st_concepts.evaluate._randomization import model_randomization
from st_concepts.evaluate._stability import stability

__all__ = ["calibration", "faithfulness", "marker_recovery", "model_randomization", "stability"]
