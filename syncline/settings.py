"""All settings: small frozen values, read once at an entry point, from `syncline.toml` and
`SYNCLINE_*` variables. Nobody below the entry points reads the environment.

`SYNCLINE_MONGO_URI` is `uri` in the table `[mongo]`, and so on. A variable wins over the file.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from syncline.errors import Misconfigured
from syncline.rules import MappingRule

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Settings(BaseModel):
    """Base of the parts: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MongoSettings(Settings):
    """Where documents come from."""

    uri: SecretStr = SecretStr("")
    """Connection string of a replica set or sharded cluster. Empty: a local server is started."""
    database: str = Field("syncline", min_length=1)
    collections: tuple[str, ...] = ()
    """Names of the collections that are synced. Empty: every collection of the database."""
    exclude_fields: tuple[str, ...] = ()
    """Fields that the server leaves out before a document travels."""
    on_lost_history: Literal["snapshot", "fail"] = "snapshot"

    @field_validator("collections", "exclude_fields", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value
        )


class QdrantSettings(Settings):
    """Where the index is kept."""

    url: str = ""
    """`http(s)://host:port` of a Qdrant server. Empty: Qdrant Edge, in this process."""
    api_key: SecretStr = SecretStr("")
    ca_file: Path | None = None
    """CA certificates that an `https` server's must be signed by. Unset: the public ones."""
    collection: str = Field("syncline", pattern=r"^[A-Za-z0-9_.-]{1,200}$")
    timeout_seconds: int = Field(10, ge=1, le=600)
    grace_seconds: int = Field(300, ge=0)
    """How long an index is kept that a new one has replaced: for requests that are being answered
    elsewhere, and to go back to."""


class PulsarSettings(Settings):
    """The topic between `syncline capture` and `syncline index`. Unused by the direct flow."""

    url: str = Field("", pattern=r"^(pulsar(\+ssl)?://[^/\s]+)?$")
    """`pulsar://host:port`, or `pulsar+ssl://` for TLS. Empty: no broker."""
    admin_url: str = Field("", pattern=r"^(https?://\S+)?$")
    """`http(s)://host:port` of the admin API, to show the backlog in `status`. Optional."""
    topic: str = Field(
        "persistent://public/default/syncline", pattern=r"^persistent://[^/\s]+/[^/\s]+/[^/\s]+$"
    )
    """A partitioned topic, which has to exist."""
    plain_topics: bool = False
    """Topics `<topic>-<n>` stand for the partitions: for Pulsar Lite, which has no partitioned
    ones."""
    partitions: int = Field(8, ge=1, le=1024)
    """How many plain topics there are. A partitioned topic says by itself how many it has."""
    subscription: str = Field("syncline-index", pattern=r"^[A-Za-z0-9_.-]{1,200}$")
    """The durable subscription of the index flow: one for each index."""
    token: SecretStr = SecretStr("")
    """JSON web token; empty: no authentication, or by certificate."""
    tls_ca_file: Path | None = None
    """CA certificates that the broker's must be signed by. Unset: the system's."""
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    compression: Literal["none", "lz4", "zstd"] = "zstd"
    max_message_bytes: int = Field(4_500_000, ge=10_000, le=100_000_000)
    """Documents above it travel as a reference: keep it below the broker's `maxMessageSize`."""
    replica: int = Field(0, ge=0)
    """Which of `replicas` this index process is. Only plain topics need it, to share them out."""
    replicas: int = Field(1, ge=1)


class EmbedderSettings(Settings):
    """Which model makes the vectors, and how it runs."""

    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_tokens: int | None = Field(None, ge=1)
    """Padded tokens that go through the model at once. Unset: by device."""


class ChunkerSettings(Settings):
    """How documents are cut."""

    max_tokens: int | None = Field(None, ge=16)
    """Longest chunk in the model's tokens. Unset: what the model can read."""


class HttpSettings(Settings):
    """Where the retriever listens."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    api_key: SecretStr = SecretStr("")
    """If set, every /v1 request must carry it: `Authorization: Bearer <key>`."""
    allow_anonymous: bool = False
    """Whether a `host` beyond loopback may be served without a key: everyone who reaches it reads
    what is in the documents."""


class LocalSettings(Settings):
    """What runs on this machine where no URL is set."""

    data_dir: Path = Path(".syncline")
    mongo_port: int = Field(27117, ge=0, le=65535)
    min_free_mb: int = Field(200, ge=0)
    """`syncline up` stops in order when the disk of `data_dir` has less free space."""


class FlowSettings(Settings):
    """How the dataflow runs."""

    epoch_milliseconds: int = Field(50, ge=1, le=10_000)
    """How often written changes are acknowledged."""
    tombstone_seconds: int = Field(86_400, ge=0)
    """How long a deleted document is remembered, in cluster time behind the watermark."""
    processes: int = Field(0, ge=0, le=256)
    """Processes that clean and chunk beside the flow's own. 0: the flow does it itself."""


class VerifySettings(Settings):
    """When a running flow compares index and database by itself."""

    every_seconds: int = Field(0, ge=0)
    """From the end of one comparison to the next; the first when the index has caught up. 0: only
    when `syncline verify` asks for it."""
    deep: bool = False
    """Also chunk every document again and look at every vector, as `verify --deep` does."""
    repair: bool = False
    """Bring what differs back in line, as `verify --repair` does."""


class Configuration(BaseSettings):
    """All of it. Made once, by `load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="SYNCLINE_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
    )

    mongo: MongoSettings = MongoSettings()
    pulsar: PulsarSettings = PulsarSettings()
    qdrant: QdrantSettings = QdrantSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    chunker: ChunkerSettings = ChunkerSettings()
    http: HttpSettings = HttpSettings()
    local: LocalSettings = LocalSettings()
    flow: FlowSettings = FlowSettings()
    verify: VerifySettings = VerifySettings()
    mapping: dict[str, MappingRule] = {}
    """By collection; `default` for all that have no rule of their own."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables win over the file, which arrives as arguments."""
        return env_settings, init_settings

    def rule(self, collection: str) -> MappingRule:
        """The mapping rule that holds for a collection."""
        return self.mapping.get(collection) or self.mapping.get("default") or MappingRule()


def load_settings(file: Path | None = None, **overrides: dict[str, Any]) -> Configuration:
    """Read the file (default: `SYNCLINE_CONFIG`, or `syncline.toml` if there is one), variables
    and overrides from the command line, the last of which win.

    Raises `Misconfigured` naming key, value and remedy.
    """
    named = file or (
        Path(os.environ["SYNCLINE_CONFIG"]) if "SYNCLINE_CONFIG" in os.environ else None
    )
    raw = _read_toml(named or Path("syncline.toml"), required=named is not None)
    try:
        base = Configuration(**raw)
        return base if not overrides else _override(base, overrides)
    except ValidationError as error:
        raise Misconfigured(
            _explain(error), "correct it in syncline.toml or the variable"
        ) from None


def _override(base: Configuration, overrides: dict[str, dict[str, Any]]) -> Configuration:
    parts = {}
    for name, values in overrides.items():
        given = {k: v for k, v in values.items() if v is not None}
        part = getattr(base, name)
        fields = {k: getattr(part, k) for k in type(part).model_fields}
        try:
            parts[name] = type(part).model_validate({**fields, **given})
        except ValidationError as error:
            problem = _explain(error, f"{name}.")
            raise Misconfigured(problem, "correct the option on the command line") from None
    return base.model_copy(update=parts)


def _read_toml(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise Misconfigured(f"there is no file {path}", "name an existing one") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}", "correct the file") from error


def _explain(error: ValidationError, prefix: str = "") -> str:
    lines = []
    for problem in error.errors(include_url=False):
        place = prefix + ".".join(str(part) for part in problem["loc"])
        secret = any(word in place for word in ("key", "uri", "password", "token"))
        value = "" if secret else f" = {str(problem.get('input'))[:80]!r}"
        hint = "unknown setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{place}{value}: {hint}")
    return "; ".join(lines)
