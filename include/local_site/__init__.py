"""Azure and Azure Stack Hub on one machine: blob storage, a training VM, a registry and Azure ML, all on 127.0.0.1.

Nothing in ``plugins`` or ``dags`` knows of it: settings and connections point at it as they would at the real services.
"""
