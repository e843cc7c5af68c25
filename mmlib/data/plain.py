"""Plain language: a text and forty questions, to ask whether a model still has its own."""

from __future__ import annotations

import re

TEXT = """\
The kettle had been on the stove for ten minutes before anyone noticed that the gas was off. My
grandmother, who trusted no machine that made no noise, put her hand on it, said nothing, and lit
a match. By the time the water boiled the rain had stopped, and the boy from next door was
standing in the kitchen with a broken bicycle chain, asking whether she had a pair of pliers. She
had three. She gave him the oldest, because it was the best, and told him to bring it back before
supper.

A bridge is held up by what it pushes against. In an arch each stone leans on its neighbors, and
the last two lean on the ground; take one away and the others have nothing left to press on. A
beam works differently: its upper side is squeezed, its lower side is stretched, and somewhere in
the middle lies a layer that is neither. That is why a beam of steel is cut in the shape of a
capital I. Most of the metal stands where most of the force is.

If you want to keep bread fresh, do not put it into the refrigerator. Bread goes stale when its
starch becomes crystalline, and this happens fastest a few degrees above freezing. In a freezer it
stops almost entirely. Wrap the loaf, freeze it on the day on which it was baked, and warm a slice
in the oven when you need one.

The meeting was moved from Tuesday to Thursday, since the auditors could not come earlier. Please
send your figures by noon on Wednesday. We shall discuss the two open invoices, the lease of the
second floor, and the question whether the firm should buy a van or go on renting one.
"""

# (question, the words of which the answer must hold one, in lower case)
QUESTIONS = (
    ("What is the capital of France?", "paris"),
    ("What is the capital of Italy?", "rome"),
    ("What is the capital of Japan?", "tokyo"),
    ("What is the capital of Germany?", "berlin"),
    ("What is the capital of Spain?", "madrid"),
    ("What is the capital of Egypt?", "cairo"),
    ("What is the capital of Russia?", "moscow"),
    ("What is the capital of England?", "london"),
    ("On which continent is Kenya?", "africa"),
    ("On which continent is Brazil?", "south america"),
    ("Which language is spoken in Brazil?", "portuguese"),
    ("Which language is spoken in Austria?", "german"),
    ("Which planet is closest to the Sun?", "mercury"),
    ("Which is the largest planet in our solar system?", "jupiter"),
    ("What does the Earth orbit?", "sun"),
    ("What is the chemical symbol of gold?", "au"),
    ("What is the chemical formula of water?", "h2o"),
    ("Which gas do plants take in from the air?", "carbon dioxide"),
    ("Which gas do humans need to breathe?", "oxygen"),
    ("At how many degrees Celsius does water boil?", "100"),
    ("How many days are there in a week?", "seven|7"),
    ("How many months are there in a year?", "twelve|12"),
    ("How many hours are there in a day?", "24"),
    ("How many legs does a spider have?", "eight|8"),
    ("How many sides does a triangle have?", "three|3"),
    ("What is two plus three?", "five|5"),
    ("What is ten minus four?", "six|6"),
    ("Who wrote Romeo and Juliet?", "shakespeare"),
    ("Who painted the Mona Lisa?", "leonardo|da vinci"),
    ("Who developed the theory of relativity?", "einstein"),
    ("Who was the first president of the United States?", "washington"),
    ("Which ocean lies between Europe and America?", "atlantic"),
    ("Which is the longest river of Africa?", "nile"),
    ("Which is the highest mountain in the world?", "everest"),
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of small?", "large|big"),
    ("What is the plural of mouse?", "mice"),
    ("What is the past tense of go?", "went"),
    ("Which animal is known to bark?", "dog"),
    ("Which organ pumps blood through the body?", "heart"),
)


def holds(answer: str, wanted: str) -> bool:
    """Whether an answer holds one of the words in `wanted`, "seven|7" say, as a whole word."""
    return re.search(rf"\b(?:{wanted})\b", answer.lower()) is not None
