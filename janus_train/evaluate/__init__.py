"""How good a model is on scenes that it never saw: drawn images judged by a detector, answers by comparison."""
