"""How the pocket model was made: data, effects, training, evaluation."""
