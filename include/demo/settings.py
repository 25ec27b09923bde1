"""Where the demo's Airflow lives and listens, and the secrets that are made for it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from demo.errors import DemoError
from local_site import files

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = Path(__file__).resolve().parents[2]
DAG_ID = "edge_training_local"
PORT_SETTING = "AIRFLOW_UI_PORT"


@dataclass(frozen=True)
class DemoSettings:
    """The settings of one demo.

    :param state: folder of what the demo makes itself (DEMO_STATE).
    :param ui_port: TCP port of Airflow's API and UI on 127.0.0.1 (AIRFLOW_UI_PORT).
    :param timeout: how long the DAG run may take, in seconds (DEMO_TIMEOUT_SECONDS).
    """

    state: Path
    ui_port: int
    timeout: int

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> DemoSettings:
        """Read the settings.

        :param env: the variables; those of this process by default.
        :raises DemoError: when one of them is not a number that makes sense.
        """
        env = os.environ if env is None else env
        return cls(
            state=Path(env.get("DEMO_STATE") or PROJECT / ".local").expanduser().absolute(),
            ui_port=_number(env, PORT_SETTING, 8080, 65535),
            timeout=_number(env, "DEMO_TIMEOUT_SECONDS", 900, 86400),
        )

    @property
    def airflow_home(self) -> Path:
        """Airflow's own folder: database, logs, passwords."""
        return self.state / "airflow"

    @property
    def pids(self) -> Path:
        """The records of Airflow's processes."""
        return self.airflow_home / "pids"

    @property
    def process_logs(self) -> Path:
        """What Airflow's processes print; the logs of tasks are in ``logs`` beside it."""
        return self.airflow_home / "process-logs"

    @property
    def facts_file(self) -> Path:
        """The facts of the last run that went well."""
        return self.state / "demo.json"

    @property
    def api_url(self) -> str:
        """Where programs reach Airflow."""
        return f"http://127.0.0.1:{self.ui_port}"

    @property
    def ui_url(self) -> str:
        """Where people reach Airflow."""
        return f"http://localhost:{self.ui_port}"


@dataclass(frozen=True)
class AirflowSecrets:
    """What only the owner of this demo may know; made once by chance, in a file that only its owner can read.

    :param admin_password: of the UI's user ``admin``.
    :param fernet_key: encrypts connections in Airflow's database.
    :param jwt_secret: signs the tokens of the API.
    :param secret_key: signs what the UI keeps in the browser.
    """

    admin_password: str = field(repr=False)
    fernet_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    secret_key: str = field(repr=False)

    @classmethod
    def ensure(cls, home: Path) -> AirflowSecrets:
        """Return the secrets of a demo, made if there are none.

        :param home: Airflow's folder.
        :raises DemoError: when the file is damaged.
        """
        path = home / "secrets.json"
        if not path.exists():
            made = cls(
                admin_password=secrets.token_urlsafe(12),
                fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                jwt_secret=secrets.token_urlsafe(48),
                secret_key=secrets.token_urlsafe(24),
            )
            files.write(path, json.dumps(asdict(made), indent=2), files.PRIVATE)
        try:
            found = cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise DemoError(
                f"{path} is damaged ({error!r}). Remove the folder {home} and run make demo again."
            ) from error
        files.write(home / "passwords.json", json.dumps({"admin": found.admin_password}), files.PRIVATE)
        return found


def code_digest() -> str:
    """Return a hash over what Airflow's processes have imported: when it changes, they have to be started again."""
    digest = hashlib.sha256()
    watched = [PROJECT / "requirements.lock", PROJECT / "airflow_settings.yaml"]
    for folder in ("dags", "plugins", "include/sites"):
        watched += (path for path in (PROJECT / folder).rglob("*") if path.suffix in {".py", ".yaml", ".airflowignore"})
    for path in sorted(watched):
        if path.is_file():
            digest.update(str(path).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _number(env: Mapping[str, str], name: str, default: int, largest: int) -> int:
    text = env.get(name, "").strip() or str(default)
    if not text.isdecimal() or not 0 < int(text) <= largest:
        raise DemoError(f"{name} is {text!r}, but has to be a number from 1 to {largest}.")
    return int(text)
