"""Makes Airflow's metadata database and puts the settings file into it, in one process: `python -m demo.database`.

Its environment says which Airflow. Both steps change nothing that is already right.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Migrate the database and load ``airflow_settings.yaml``; return 2 for a mistake in the settings."""
    import airflow_settings

    try:
        settings = airflow_settings.read(airflow_settings.DEFAULT_FILE, os.environ)
    except airflow_settings.SettingsFileError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    from airflow.utils.db import upgradedb

    upgradedb()
    print("\n".join(airflow_settings.load(settings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
