"""`manage.py send SIGNAL RESOURCE`: a reading by hand, judged like any other."""

import argparse
from argparse import ArgumentParser
from typing import Any

from byteport.cli import Report, ReportCommand, actor
from byteport.core.clock import now
from byteport.core.errors import Refused
from byteport.core.resource import ResourceRef
from signals.catalog import CATALOG
from signals.ingest import ingest
from signals.management.commands.poll import ingested_report
from signals.reading import Reading, State


class Command(ReportCommand):
    help = (
        "Sends one reading. With --value it is a measurement, which BytePort judges by its thresholds and over its"
        " sustained window; with --firing or --resolved it is your own judgement, and needs no window."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("signal", choices=sorted(CATALOG), help="The signal.")
        parser.add_argument(
            "resource", type=_resource, help="What it is about, e.g. host/web-1/mount/%%2Fvar (/ is written %%2F)."
        )
        parser.add_argument("--value", type=float, help="The measured value, in the signal's unit.")
        state = parser.add_mutually_exclusive_group()
        state.add_argument("--firing", action="store_const", const=State.FIRING, dest="state", help="It is bad.")
        state.add_argument("--resolved", action="store_const", const=State.RESOLVED, dest="state", help="It is over.")
        parser.add_argument("--detail", default="", help="What tells two events of one resource apart.")

    def report(self, **options: Any) -> Report:
        state = options["state"] or State.MEASURED
        if state is State.MEASURED and options["value"] is None:
            raise Refused("Give a --value, or say --firing or --resolved.")
        reading = Reading(
            signal=options["signal"],
            resource=options["resource"],
            at=now(),
            value=options["value"],
            state=state,
            detail=options["detail"],
            source=actor(),
        )
        return ingested_report({"signal": reading.signal, "resource": str(reading.resource)}, ingest([reading]))


def _resource(text: str) -> ResourceRef:
    try:
        return ResourceRef.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
