"""The words of the bundled reviews, and how much praise or blame each of them expresses.

The valences were chosen by hand: positive ones praise, negative ones blame; 0.5 is faint, 1 plain, 2 as strong as a
single word can be. The grammar generates texts from these words, and the gold score interprets them.
"""

from __future__ import annotations

from dataclasses import dataclass


def words(text: str) -> tuple[str, ...]:
    """Split a list of entries separated by commas."""
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def graded(text: str) -> dict[str, float]:
    """Split a list of entries "word valence" separated by commas: word -> valence."""
    pairs = (entry.rsplit(" ", 1) for entry in words(text))
    return {word: float(number) for word, number in pairs}


@dataclass(frozen=True)
class Aspect:
    """A side of a film that a speaker may care about, such as its music."""

    one: tuple[str, ...]
    """Singular nouns for it."""
    many: tuple[str, ...]
    """Plural nouns for it."""
    adjectives: dict[str, float]
    """Adjectives that only fit this aspect, with their valences."""
    verbs: dict[str, float]
    """Verbs that only fit this aspect, in the third person singular; the plural lacks the final s."""


def aspect(one: str, many: str, adjectives: str, verbs: str) -> Aspect:
    return Aspect(words(one), words(many), graded(adjectives), graded(verbs))


ASPECTS = {
    "plot": aspect(
        "plot, story",
        "twists",
        "gripping 1.6, clever 1.3, inventive 1.4, absorbing 1.4, "
        "predictable -1.1, muddled -1.2, absurd -1.3, thin -0.8",
        "surprises 1.2, meanders -0.9",
    ),
    "acting": aspect(
        "acting, cast, lead actor",
        "performances",
        "natural 1.0, nuanced 1.3, committed 1.0, stirring 1.5, wooden -1.3, stiff -1.0, forced -1.1, careless -1.2",
        "shines 1.5, overacts -1.2",
    ),
    "music": aspect(
        "music, score",
        "songs, melodies",
        "haunting 1.4, catchy 1.0, tender 1.2, stunning 1.8, shrill -1.4, cheesy -0.9, generic -0.8, grating -1.4",
        "soars 1.7, grates -1.3",
    ),
    "pacing": aspect(
        "pacing, rhythm, editing",
        "cuts",
        "brisk 1.0, tight 1.1, confident 1.2, fluid 1.3, sluggish -1.2, rushed -0.9, jerky -1.1, plodding -1.3",
        "hums 1.0, drags -1.2",
    ),
    "dialogue": aspect(
        "dialogue, script, banter",
        "lines",
        "sharp 1.3, witty 1.5, crisp 1.0, sparkling 1.7, stilted -1.2, corny -0.9, empty -1.0, tasteless -1.5",
        "sparkles 1.6, rambles -1.0",
    ),
    "photography": aspect(
        "photography, camera, lighting",
        "images, colours",
        "vivid 1.2, elegant 1.3, radiant 1.6, gorgeous 1.8, murky -1.0, ugly -1.5, drab -1.0, shaky -0.8",
        "glows 1.4, distracts -0.9",
    ),
    "characters": aspect(
        "heroine, villain",
        "characters, side characters",
        "believable 1.1, likeable 1.0, complex 1.2, fascinating 1.6, "
        "shallow -1.1, tiresome -1.2, irritating -1.4, flimsy -0.9",
        "intrigues 1.3, annoys -1.3",
    ),
    "ending": aspect(
        "ending, final act, last scene",
        "final scenes",
        "satisfying 1.3, powerful 1.5, touching 1.3, perfect 1.9, "
        "abrupt -0.9, contrived -1.2, senseless -1.4, laughable -1.5",
        "lands 1.1, collapses -1.5",
    ),
    "effects": aspect(
        "production design, scenery",
        "effects, costumes, sets",
        "dazzling 1.7, convincing 1.1, detailed 0.9, handsome 1.1, cheap -1.1, fake -1.2, clunky -1.0, shabby -1.2",
        "dazzles 1.7, creaks -0.9",
    ),
    "tone": aspect(
        "tone, mood, atmosphere",
        "",
        "warm 1.2, assured 1.1, playful 1.2, honest 1.3, confused -1.1, cynical -1.0, smug -1.3, dreary -1.2",
        "lingers 1.0, wobbles -0.8",
    ),
}

EXTREME = 1.65  # adjectives this strong or stronger take other degree words

FILM = "film"  # what a sentence is about that names no aspect

FILM_NAMES = words("film, movie, picture")

ADJECTIVES = graded(
    "decent 0.6, pleasant 0.7, solid 0.8, good 1.0, strong 1.2, charming 1.2, impressive 1.3, memorable 1.3, "
    "lovely 1.4, great 1.5, delightful 1.6, excellent 1.7, wonderful 1.8, superb 2.0, brilliant 2.0, magnificent 2.0, "
    "uneven -0.6, ordinary -0.6, bland -0.8, tired -0.8, weak -1.0, dull -1.1, forgettable -1.1, poor -1.2, bad -1.2, "
    "disappointing -1.3, lifeless -1.4, annoying -1.4, terrible -1.9, awful -2.0, dreadful -2.0, horrible -2.0"
)

VERBS = graded(
    "works 1.0, charms 1.2, amazes 1.5, delights 1.6, falters -0.8, misfires -1.1, disappoints -1.3, fails -1.5"
)

# What "I" did with the film or with a side of it.
FEELINGS = graded(
    "liked 0.8, enjoyed 1.1, admired 1.3, loved 1.7, adored 1.9, "
    "tolerated -0.6, disliked -1.0, regretted -1.2, resented -1.4, hated -1.8"
)

COMPARATIVES = graded("better 1.2, far better 1.7, worse -1.2, far worse -1.7")

VERDICTS = graded(
    "small gem 1.5, real treat 1.5, rare triumph 1.8, joy to watch 1.8, masterpiece 2.2, near miss -0.8, "
    "missed chance -1.1, real chore -1.4, sorry mess -1.6, waste of time -1.9, complete failure -2.2"
)

REACTIONS = graded(
    "forgot the time 1.1, smiled all the way home 1.4, wanted to see it again 1.5, could have watched for hours 1.6, "
    "held my breath 1.2, checked my watch twice -1.1, lost interest early -1.2, nearly fell asleep -1.4, "
    "left before the end -1.8, wanted my money back -1.8, counted the minutes -1.2"
)

ADVICE = graded(
    "see it 1.3, see it twice 1.8, tell your friends 1.4, bring everyone you know 1.2, "
    "skip it -1.4, stay at home -1.5, choose another film -1.1, save your money -1.6"
)

# Opinions that the grammar does not use, but another text may contain.
OTHER_OPINIONS = graded(
    "nice 0.8, fun 1.1, enjoyable 1.1, funny 1.2, beautiful 1.5, best 1.6, amazing 1.8, fantastic 1.8, love 1.6, "
    "boring -1.3, stupid -1.3, pointless -1.4, unwatchable -1.8, worst -1.8, hate -1.7, waste -1.5"
)

# Factors by which a degree word scales the opinion that follows it.
DEGREES = graded(
    "slightly 0.5, a little 0.6, fairly 0.75, rather 0.85, quite 0.9, simply 1.2, really 1.25, very 1.3, "
    "unusually 1.3, truly 1.4, remarkably 1.4, deeply 1.4, painfully 1.5, absolutely 1.5, utterly 1.6"
)

# Factors by which a negation multiplies the opinion that follows it: it reverses the opinion and usually weakens it.
NEGATIONS = graded("hardly -0.5, not exactly -0.5, not -0.6, never -0.7, far from -0.9, anything but -1.0")

# Negations that the grammar does not use, but another text may contain.
OTHER_NEGATIONS = graded(
    "no -0.6, neither -0.6, nor -0.6, without -0.6, barely -0.5, isn't -0.6, aren't -0.6, wasn't -0.6, weren't -0.6, "
    "don't -0.6, doesn't -0.6, didn't -0.6, won't -0.6, can't -0.6, couldn't -0.6, wouldn't -0.6"
)


GENRES = words("horror film, comedy, thriller, romance, war film, family film, documentary, musical")

# Words that praise a film of these genres and blame a film of any other genre.
MOOD_VALENCE = 1.4

MOODS = {
    "scary": words("horror film, thriller"),
    "dark": words("horror film, thriller, war film"),
    "bleak": words("horror film, war film, documentary"),
    "violent": words("horror film, thriller, war film"),
    "silly": words("comedy, family film, musical"),
    "loud": words("musical, war film, horror film"),
    "sweet": words("romance, family film, musical"),
    "sad": words("romance, war film, documentary"),
    "slow": words("romance, documentary, horror film"),
    "quiet": words("romance, documentary, thriller"),
    "cute": words("family film, comedy, romance"),
    "strange": words("horror film, comedy, thriller"),
    "sober": words("documentary, war film, thriller"),
    "dreamy": words("romance, musical, family film"),
}


def mood_valence(word: str, genre: str) -> float:
    """Valence of one of the `MOODS` for a film of this genre."""
    return MOOD_VALENCE if genre in MOODS[word] else -MOOD_VALENCE


# Occupations of a speaker that imply the aspect the speaker cares about.
CALLINGS = {
    "novelist": "plot",
    "theatre actor": "acting",
    "pianist": "music",
    "film editor": "pacing",
    "playwright": "dialogue",
    "painter": "photography",
    "therapist": "characters",
    "tailor": "effects",
}

# Other speakers, who have to say what they care about.
PEOPLE = words(
    "retired teacher, tired nurse, student, bus driver, father of three, night porter, gardener, young mother, "
    "former soldier, cook, baker, sceptic"
)

# What the film is about: any trait with any noun.
SUBJECT_TRAITS = words("lonely, stubborn, famous, blind, young, runaway, homesick, wealthy, shy, elderly")

SUBJECT_NOUNS = words(
    "sailor, detective, farmer, singer, doctor, thief, boxer, queen, watchmaker, pilot, widow, dog, butcher, magician"
)

# A clause that follows one of the conceding words, up to the next comma, is conceded, and so is a clause that precedes
# one of the contrasting words.
CONCEDING = words("although, though, while, despite, for all its")

CONTRASTING = words("but, yet, however")

# A prompt is an opening (the film, perhaps the speaker) and perhaps a wish (what the speaker cares about).
OPENINGS = (
    "A <genre> about <subject>.",
    "I just saw a <genre> about <subject>.",
    "Notes on a <genre> about <subject>.",
    "Last night: a <genre> about <subject>.",
    "Some loved this <genre> about <subject>, some left.",
    "Opinions are split on this <genre> about <subject>.",
    "As a <person>, I saw a <genre> about <subject>.",
    "A <person> on a <genre> about <subject>:",
    "As a <calling>, I saw this <genre> about <subject>.",
    "A <calling> on a <genre> about <subject>:",
)

WISHES = (
    "I care most about the <noun>.",
    "I came for the <noun>.",
    "I always judge the <noun> first.",
    "My concern is the <noun>.",
    "People ask me about the <noun>.",
)
