"""What the store keeps of one lane's answer, for Compare and Arena alike. Knows traces and votes; runs nothing."""

from ram_demo.decoding.record import to_record
from ram_demo.decoding.trace import Trace
from ram_demo.votes import Response


def response_of(trace: Trace, aligners: list[dict]) -> Response:
    """A lane that has ended, as it is kept. aligners: the lane's, as a plan's record has them; none for the base."""
    return Response(
        lane=trace.lane,
        aligners=",".join(f"{a['name']}:{a['beta']:g}" for a in aligners),
        aligner_revision=",".join(a["revision"] for a in aligners),
        text=trace.text,
        done=trace.done,
        tokens=len(trace.steps),
        tokens_per_s=trace.tokens_per_s,
        first_token_ms=trace.first_token_ms,
        gated_share=trace.gated_share if aligners else None,
        mean_kl=trace.mean_kl if aligners else None,
        trace=to_record(trace),
    )
