"""Watches what the Trainer of Transformers trains: `Trainer(…, callbacks=[NetDoctorCallback()])`."""

from netdoctor_transformers.callback import NetDoctorCallback

__all__ = ["NetDoctorCallback"]
