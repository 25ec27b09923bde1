"""An Azure ML workspace on loopback, which the unmodified Azure ML SDK v1 (azureml-core) talks to.

``python -m local_site.azure_ml serve`` starts it; ``README.md`` beside this file says what it answers and what it does not.
"""
