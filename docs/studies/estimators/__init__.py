"""Which estimate of calibration to report: estimators, bins, regions and patients against a known truth.

`python -m estimators` (with docs/studies on the path; `make study`) writes docs/results/estimators.csv and redraws the
tables and figures of docs/results/estimators.md from it.
"""
