"""Requests that ask for nothing: greetings and thanks, in five languages."""

from __future__ import annotations

import re

_GREETING = re.compile(
    r"\W*(?:hello|hi|hey|hi there|hello there|hey there|good (?:morning|evening|afternoon|night|day)"
    r"|how are you(?: today)?|what'?s up"
    r"|thanks(?: a lot| so much)?|thank you(?: so much| very much)?|bye|goodbye|see you|who are you"
    r"|what can you do"
    r"|hola|buen[oa]s (?:días|tardes|noches)|buenas|qué tal|gracias|muchas gracias|adiós|hasta luego"
    r"|quién eres"
    r"|hallo|guten (?:morgen|tag|abend)|gute nacht|danke(?: schön| sehr)?|vielen dank|tschüss"
    r"|wie geht'?s?(?: es dir)?|wer bist du"
    r"|你好|您好|嗨|早上好|晚上好|晚安|谢谢|再见|你是谁|halo|hai|selamat (?:pagi|siang|sore|malam)|apa kabar"
    r"|terima kasih|makasih"
    r"|siapa kamu|sampai jumpa)(?:\W+(?:there|everyone|friend|again|du|amigo|semua))?\W*",
    re.IGNORECASE,
)


def greets(text: str) -> bool:
    """Whether a request is nothing but a greeting or thanks, which is talk and no picture."""
    return bool(_GREETING.fullmatch(text))
