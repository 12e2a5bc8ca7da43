"""Ways to learn a fold, one scikit-learn estimator each, behind one registry."""
