"""scikit-learn and PyOD estimators."""
