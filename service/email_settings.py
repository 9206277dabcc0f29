"""The settings of e-mail, a part of ``Settings``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from service.names import is_address


class EmailSettings(BaseSettings):
    """Who is told of the ends of jobs by e-mail, and how it is sent."""

    # e-mail
    notify_recipients: str = Field(
        "",
        description="Addresses that the `notify_email` of an upload may name, such as `*@example.org, ops@example.net`; without it "
        "there is none.",
    )
    email_to: str = Field("", description="Addresses that are told by e-mail of the ends of all jobs.")
    email_on: Literal["failure", "success", "both"] = Field(
        "failure", description="Which ends `INTAKE_EMAIL_TO` is told of; `both` has canceled ones too."
    )
    email_from: str = Field("", description="Address that e-mail is sent from; needed for any.")
    email_templates: Path | None = Field(
        None, description="Folder of texts in place of the built-in ones, such as `job.failed.txt`."
    )
    smtp_host: str = Field("", description="SMTP server that takes e-mail; needed for any.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Its port.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="How the connection to it is made private; certificates are verified."
    )
    smtp_user: str = Field("", description="Name to log in with; no login without it.")
    smtp_password_file: Path | None = Field(None, description="File with the password of `INTAKE_SMTP_USER`.")

    @model_validator(mode="after")
    def _check_email(self) -> Self:
        if (self.email_to or self.notify_recipients) and not (self.smtp_host and self.email_from):
            raise ValueError("INTAKE_EMAIL_TO and INTAKE_NOTIFY_RECIPIENTS need INTAKE_SMTP_HOST and INTAKE_EMAIL_FROM")
        told = (word.strip() for word in f"{self.email_to},{self.email_from}".split(","))
        if wrong := [one for one in told if one and not is_address(one)]:
            raise ValueError(f"{wrong[0]!r} is no e-mail address")
        return self
