"""KDD Cup 99 with EnergyDetector: python -m examples.kdd99_anomaly."""

import numpy as np
from sklearn.metrics import f1_score

from megjax import EnergyDetector
from megjax.data import kdd99

train, test = kdd99.kdd99(scale="minmax")
detector = EnergyDetector(
    energy="meg",
    criterion="score_norm",
    num_steps=6000,
    random_state=0,
    verbose=True,
)
anomaly = -detector.fit(train.store).score_samples(test.x)
print("F1", f1_score(test.labels, anomaly >= np.percentile(anomaly, 80)))
