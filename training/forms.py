"""English forms that WordNet does not list: what is done or has been done, and what has something.

Labels are also of the kind "running", "folded" or "feathered". WordNet has lemmas and irregular
forms; the regular ones are spelt here by rule, now and then wrongly, which does no harm: the
teacher answers for any spelling.
"""

from __future__ import annotations

from collections.abc import Set

from teacher import WORDNET

VOWELS = "aeiou"


def lemmas(kind: str) -> set[str]:
    """WordNet's lemmas of a kind, "noun" or "verb", in small letters."""
    index = WORDNET.with_name(f"index.{kind}").read_text().splitlines()
    return {line.split()[0] for line in index if line[0] != " "}


def verb_forms() -> dict[str, set[str]]:
    """Verb -> itself, its participles and past tense."""
    irregular: dict[str, set[str]] = {}
    for line in WORDNET.with_name("verb.exc").read_text().splitlines():
        form, verb = line.split()[:2]
        irregular.setdefault(verb, set()).add(form)
    found = {}
    for verb in sorted(lemmas("verb")):
        if verb.isalpha() and len(verb) > 2:
            listed = irregular.get(verb, set())
            present = {form for form in listed if form.endswith("ing")}
            found[verb] = {verb} | (present or {ing(verb)}) | (listed - present or {ed(verb)})
    return found


def ed(word: str, known: Set[str] = frozenset()) -> str:
    """The past participle of a verb; of a noun, what has it: bearded, feathered."""
    if word.endswith("e"):
        return word + "d"
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ied"
    return word + (word[-1] if doubles(word, known) else "") + "ed"


def ing(word: str) -> str:
    """The present participle of a verb."""
    if word.endswith("ie"):
        return word[:-2] + "ying"
    if word.endswith("e") and not word.endswith(("ee", "oe", "ye")):
        return word[:-1] + "ing"
    return word + (word[-1] if doubles(word) else "") + "ing"


def doubles(word: str, known: Set[str] = frozenset()) -> bool:
    """Whether the last letter is written twice before -ed and -ing.

    It is after one vowel, in words of one syllable and those that end with one (of `known` words).
    """
    if len(word) < 3 or word[-1] not in "bdgklmnprt" or word[-2] not in VOWELS:
        return False
    if word[-3] in VOWELS:
        return False
    sounds = VOWELS + "y"
    syllables = sum(
        letter in sounds and (i == 0 or word[i - 1] not in sounds) for i, letter in enumerate(word)
    )
    ends = (i for i in range(max(3, len(word) - 4), len(word) - 2))
    return syllables == 1 or any(word[:i] in known and word[i:] in known for i in ends)
