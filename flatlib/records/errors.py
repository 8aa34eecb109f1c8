"""Errors and losses, clean and under attack."""

from flatlib.measures.evaluate import evaluate
from flatlib.records.measure import Column, Measure
from flatlib.records.subject import Subject


def robustness(s: Subject) -> list[dict]:
    """Err and Loss (all test images, as many training images); RErr and RLoss by PGD with restarts,
    RLoss also over clean-correct and -incorrect examples.
    """
    report, attack = s.report, f"pgd{s.protocol.steps}x{s.protocol.restarts}"
    n = len(s.whole)
    rows = [s.row("err", s.clean.Err, n=n), s.row("loss", s.clean.Loss, n=n)]
    rows += [s.row("rerr", report.RErr, attack), s.row("rloss", report.RLoss, attack)]
    return rows + [s.row(f"rloss_{k}", v, attack) for k, v in report.split().items()]


def autoattack(s: Subject) -> list[dict]:
    """RErr and RLoss on the outputs of AutoAttack, on as many images as the protocol says."""
    attack = s.protocol.autoattack.within(s.profile.threat)
    x, y = (part[: s.protocol.autoattack_images] for part in (s.x, s.y))
    n = len(x)
    report = evaluate(s.model, x, y, attack, batch=n, doubts=False)
    return [s.row("rerr", report.RErr, "aa", n=n), s.row("rloss", report.RLoss, "aa", n=n)]


SAYS = ("split", "attack")
RERR = Column("RErr", says=SAYS)
RLOSS = Column("RLoss", how="RLoss by {attack}", says=SAYS)

ROBUSTNESS = Measure(
    "robustness",
    robustness,
    cost=lambda s: s.report,
    uses=("steps", "restarts"),
    columns={
        "err": Column("Err", says=SAYS),
        "loss": Column("Loss", says=SAYS),
        "rerr": RERR,
        "rloss": RLOSS,
        "rloss_correct": Column("RLoss of images classified correctly", says=SAYS),
        "rloss_incorrect": Column("RLoss of images classified wrongly", says=SAYS),
    },
)
AUTOATTACK = Measure(
    "autoattack",
    autoattack,
    cost=lambda s: s.protocol.autoattack.steps_per_image * s.few(s.protocol.autoattack_images),
    uses=("autoattack", "autoattack_images"),
    columns={"rerr": RERR, "rloss": RLOSS},
)
