"""Watches what a Lightning trainer trains: `Trainer(callbacks=[NetDoctorCallback()])`."""

from netdoctor_lightning.callback import NetDoctorCallback

__all__ = ["NetDoctorCallback"]
