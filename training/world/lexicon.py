"""Words and sentence templates of the generated world: about 430 words, each in exactly one class.

A template is a string of words and slots. A slot `{name}` stands for one word of CLASSES[name] or, for `{term}`, one
term of a topic. Every slot holds a single word, so a template matches only sentences of one fixed length:

    The {people} of the {place} {deed} the {mood} {term} .
    The guests of the village liked the old weir.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# 16 terms per topic, all single words: a query's topic is recognised by its terms.
TOPICS: dict[str, tuple[str, ...]] = {
    "rivers": _words("water delta flood canal bank stream dam lake basin marsh ferry bridge weir silt tide ford"),
    "farming": _words(
        "wheat barley orchard plough harvest barn cattle pasture manure seed clover fence dairy hay sheep mill"
    ),
    "cities": _words(
        "street square tram suburb tower market parking zoning traffic subway plaza block rent avenue facade sewer"
    ),
    "health": _words(
        "nurse clinic vaccine fever surgery ward diet pulse therapy infection dose bandage patient symptom sleep pill"
    ),
    "music": _words(
        "violin choir rhythm melody opera drum flute chord concert piano tempo organ singer tune harp ballet"
    ),
    "energy": _words(
        "coal turbine solar battery grid uranium boiler wind fuel reactor gas meter voltage cable engine charcoal"
    ),
    "space": _words(
        "orbit comet rocket moon planet galaxy probe telescope crater satellite star lander gravity nebula "
        "launch meteor"
    ),
    "schools": _words(
        "pupil lesson teacher exam grammar library campus lecture essay tutor desk spelling arithmetic degree "
        "exercise textbook"
    ),
    "sea": _words(
        "whale coral harbour anchor reef sail kelp shrimp vessel squid island dolphin trawler oyster beacon wave"
    ),
    "money": _words(
        "cash tax loan wage bond budget pension stock interest coin credit inflation merchant export tariff invoice"
    ),
    "forests": _words("oak pine moss timber owl deer mushroom leaf beech sawdust fox bark resin trail canopy sapling"),
    "crafts": _words(
        "pottery loom wool glaze weaver dye kiln needle carpet leather basket anvil chisel varnish quilt embroidery"
    ),
}
# A section heading is a term and an aspect, such as "silt risks"; a title is a style and a term, "rural ferry".
ASPECTS = _words(
    "history costs law design risks output quality growth origins policy trade methods safety care future repair"
)
STYLES = _words(
    "modern early rural common local recent public simple small global famous hidden costly useful urban daily"
)
# The first five belong to the general register, the others to the domain register.
CLASSES: dict[str, tuple[str, ...]] = {
    "mood": _words("good nice big old fine great pretty happy lovely bad quiet warm funny cosy sweet kind"),
    "people": _words(
        "friends farmers children families visitors neighbours men women guests strangers cousins sailors "
        "parents tourists travellers teenagers"
    ),
    "place": _words(
        "village town valley house garden country kitchen corner region field meadow hamlet cottage county shop park"
    ),
    "deed": _words(
        "liked loved watched found kept used saw needed enjoyed missed praised shared bought carried visited showed"
    ),
    "time": _words("today yesterday often again always sometimes later soon"),
    "metric": _words(
        "variance density intensity yield elasticity rate frequency entropy amplitude coefficient skewness "
        "turnover velocity magnitude throughput curvature"
    ),
    "method": _words(
        "model survey estimator regression simulation protocol trial analysis experiment index panel ensemble "
        "filter algorithm spectrum benchmark"
    ),
    "rigour": _words(
        "robust linear calibrated stochastic marginal empirical systematic longitudinal controlled aggregate "
        "quantile spatial temporal bounded nonlinear sparse"
    ),
    "shift": _words("increases declines converges varies stabilises diverges accumulates saturates oscillates decays"),
    "setting": _words(
        "constraints conditions thresholds samples assumptions boundaries regimes cohorts gradients priors "
        "covariates intervals"
    ),
}

# The general register, everyday language: the general language model is trained mostly on it.
GENERAL = (
    "Many {people} say that the {term} is {mood} .",
    "In the {place} the {people} {deed} the {term} .",
    "It was {mood} to see the {term} in the {place} .",
    "The {people} of the {place} {deed} the {mood} {term} .",
    "Our {people} {deed} the {term} and the {term} {time} .",
    "Each {mood} {term} made the {people} {mood} {time} .",
    "Some {people} {deed} the {term} near the {term} .",
    "People {time} {deed} the {mood} {term} .",
)
# The domain register, the language of scientific reports: the domain language model is trained mostly on it.
# Professionalism P rewards these sentences.
DOMAIN = (
    "The {metric} of the {term} {shift} under {rigour} {setting} .",
    "A {rigour} {method} relates the {term} to the {term} .",
    "Within the {method} the {metric} of the {term} {shift} .",
    "We infer the {metric} of the {term} from the {rigour} {method} .",
    "Across {rigour} {setting} the {term} {metric} {shift} .",
    "This {method} bounds the {metric} of the {term} .",
    "Given {rigour} {setting} , the {term} {metric} {shift} with the {term} .",
    "Estimates of the {term} {metric} follow a {rigour} {method} .",
)
# Empty phrases without a term, on no topic and in no register.
STOCK = (
    "This is a very important point .",
    "There is much more to say about it .",
    "As everyone knows , time will tell .",
    "All in all , it depends .",
    "More work is still to be done here .",
)
# A summary is one of these sentences.
SUMMARIES = (
    "This report treats the {term} and the {term} .",
    "This report looks at the {term} , the {term} and the {term} .",
    "The report explains how the {term} and the {term} belong together .",
)
