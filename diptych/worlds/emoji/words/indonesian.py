"""Indonesian: no gender, no plural, and a measure word that may be left out."""

from __future__ import annotations

import numpy as np

from diptych.worlds.emoji.words.grammar import Frames, Noun, Tongue, pick

_ANIMAL, _PERSON, _THING = ("ekor",), ("orang",), ("buah",)
_ONE = {"ekor": "seekor", "orang": "seorang", "buah": "sebuah"}


def _all(measures: tuple[str, ...], *names: str) -> tuple[Noun, ...]:
    return tuple(Noun(name, name, measures=measures) for name in names)


def _say(tongue: Tongue, noun: Noun, count: int, spec: str, rng: np.random.Generator) -> str:
    name = f"{noun.one} {noun.colour}" if noun.colour else noun.one
    if spec in ("many", "bare"):
        return name
    if spec == "the":
        return pick(rng, (name, name, f"{name} itu"))
    (measure,) = noun.measures
    if count == 1:
        return f"{pick(rng, (_ONE[measure], _ONE[measure], 'satu', '1', ''))} {name}".strip()
    return f"{pick(rng, (tongue.numbers[count], str(count)))} {pick(rng, ('', '', measure + ' '))}{name}"


INDONESIAN = Tongue(
    code="id",
    nouns={
        "cat": _all(_ANIMAL, "kucing", "kucing", "anak kucing", "wajah kucing"),
        "dog": _all(_ANIMAL, "anjing", "anjing", "anak anjing", "wajah anjing"),
        "apple": _all(_THING, "apel", "apel", "apel merah", "buah apel"),
        "banana": _all(_THING, "pisang", "pisang", "buah pisang"),
        "carrot": _all(_THING, "wortel"),
        "car": _all(_THING, "mobil"),
        "tree": _all(_THING, "pohon", "pohon", "pohon cemara", "pohon pinus", "cemara"),
        "star": _all(_THING, "bintang", "bintang", "bintang kuning"),
        "fish": _all(_ANIMAL, "ikan"),
        "house": _all(_THING, "rumah"),
        "sunflower": _all(_THING, "bunga matahari", "bunga matahari", "bunga"),
        "crown": _all(_THING, "mahkota", "mahkota", "mahkota emas"),
        "thumbs up": _all(_THING, "jempol", "jempol ke atas", "acungan jempol"),
        "thumbs up: light skin tone": _all(
            _THING,
            "jempol kulit terang",
            "jempol berkulit terang",
            "jempol ke atas kulit terang",
            "jempol kulit cerah",
        ),
        "thumbs up: dark skin tone": _all(
            _THING, "jempol kulit gelap", "jempol berkulit gelap", "jempol ke atas kulit gelap"
        ),
        "man farmer": _all(_PERSON, "petani pria", "petani laki-laki"),
        "woman farmer": _all(_PERSON, "petani wanita", "petani perempuan"),
    },
    shapes={
        "circle": _all(_THING, "lingkaran", "lingkaran", "bulatan"),
        "square": _all(_THING, "persegi", "persegi", "kotak", "bujur sangkar"),
        "heart": _all(_THING, "hati"),
    },
    colours={
        "red": ("merah",),
        "orange": ("oranye", "jingga", "oranye"),
        "yellow": ("kuning",),
        "green": ("hijau",),
        "blue": ("biru",),
        "purple": ("ungu",),
    },
    backgrounds={
        "white": ("putih",),
        "pink": ("merah muda", "pink"),
        "mint": ("hijau mint", "hijau muda"),
        "sky blue": ("biru langit", "biru muda"),
        "lavender": ("lavender", "ungu muda"),
        "gray": ("abu-abu",),
    },
    numbers=("nol", "satu", "dua", "tiga", "empat", "lima"),
    say=_say,
    joins=(" dan ", " dan ", " dan ", ", ", " serta ", " dengan ", " bersama "),
    draw=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "gambar {x}",
            "gambarkan {x}",
            "gambarkan saya {x}",
            "tolong gambar {x}",
            "tolong gambarkan {x}",
            "bisakah kamu menggambar {x}?",
            "bisa gambar {x}?",
            "sebuah gambar {x}",
            "sebuah gambar dengan {x}",
            "buat {x}",
            "buatkan {x}",
            "buat gambar {x}",
            "buatkan saya gambar {x}",
            "lukis {x}",
            "lukiskan {x}",
            "tampilkan {x}",
            "tunjukkan {x}",
            "saya mau {x}",
            "saya ingin {x}",
            "saya ingin melihat {x}",
            "aku mau {x}",
            "foto {x}",
            "hanya {x}",
        ),
        held=(
            "ilustrasikan {x}",
            "mohon gambar {x}",
            "anak saya ingin {x}",
            "coba gambar {x}",
            "perlihatkan {x}",
        ),
    ),
    on=Frames(
        trained=(
            "{x} dengan latar {c}",
            "{x}, latar {c}",
            "{x} dengan latar belakang {c}",
            "{x} di latar {c}",
            "{x} berlatar {c}",
            "dengan latar {c}, {x}",
            "{x} pada latar belakang warna {c}",
        ),
        held=("latar belakang {c}: {x}", "{x} di depan latar {c}"),
    ),
    stands={
        "left of": ("di kiri", "di sebelah kiri", "di sebelah kiri dari", "di samping kiri"),
        "right of": ("di kanan", "di sebelah kanan", "di sebelah kanan dari", "di samping kanan"),
        "above": ("di atas", "di atas", "di bagian atas"),
        "below": ("di bawah", "di bawah", "di bagian bawah"),
    },
    sides={
        "left of": ("di kirinya", "di sebelah kirinya"),
        "right of": ("di kanannya", "di sebelah kanannya"),
        "above": ("di atasnya",),
        "below": ("di bawahnya",),
    },
    related=Frames(
        trained=(
            "{a} {w} {b}",
            "{a} {w} {b}",
            "{a} {w} {b}",
            "{b} {v} {a}",
            "{b} dengan {a} {s}",
            "{b} dan {s} {a}",
            "{a} yang {w} {b}",
        ),
        held=("{a} berada {w} {b}", "{b}, {s} ada {a}"),
    ),
    sentences=Frames(
        trained=(
            "{w} {b}, gambar {a}",
            "{w} {b} ada {a}",
            "ada {b} dan {s} {a}",
            "{b}, {s} {a}",
            "gambar {b} lalu {a} {s}",
            "letakkan {a} {w} {b}",
            "taruh {a} {w} {b}",
            "{a} ada {w} {b}",
            "saya mau {b} dan {s} {a}",
        ),
        held=("{w} {b} saya mau {a}", "tempatkan {a} {w} {b}"),
    ),
    greetings=("", "", "", "", "", "halo, ", "hai, ", "tolong "),
    thanks=("", "", "", "", "", " ya", ", terima kasih", ".", "!", " tolong"),
    edits={
        "add": Frames(
            trained=(
                "tambahkan {a}",
                "tambah {a}",
                "tambahkan {a} ke gambar",
                "taruh {a} di gambar",
                "gambar juga {a}",
                "masukkan {a}",
                "bisakah tambahkan {a}?",
                "beri {a} juga",
            ),
            held=("sisipkan {a}", "saya mau ada {a} juga"),
        ),
        "remove": Frames(
            trained=(
                "hapus {the}",
                "hilangkan {the}",
                "buang {the}",
                "hapus {the} dari gambar",
                "singkirkan {the}",
                "hapuskan {the}",
                "bisakah hapus {the}?",
                "saya tidak mau {the}",
            ),
            held=("keluarkan {the}", "lenyapkan {the}"),
        ),
        "replace": Frames(
            trained=(
                "ganti {the} dengan {a}",
                "ubah {the} menjadi {a}",
                "tukar {the} dengan {a}",
                "jadikan {the} {a}",
                "{a} sebagai ganti {the}",
                "gantikan {the} dengan {a}",
                "ubah {the} jadi {a}",
            ),
            held=("sulap {the} jadi {a}", "pakai {a}, bukan {the}"),
        ),
        "recolour": Frames(
            trained=(
                "ubah warna {the} menjadi {c}",
                "warnai {the} {c}",
                "buat {the} menjadi {c}",
                "ganti warna {the} dengan {c}",
                "jadikan {the} {c}",
                "cat {the} warna {c}",
                "ubah {the} jadi {c}",
            ),
            held=("beri {the} warna {c}", "saya mau {the} warna {c}"),
        ),
        "move": Frames(
            trained=(
                "pindahkan {the} {m}",
                "geser {the} {m}",
                "pindah {the} {m}",
                "taruh {the} {m}",
                "letakkan {the} {m}",
                "bisakah geser {the} {m}?",
            ),
            held=("dorong {the} {m}", "bawa {the} {m}"),
        ),
        "background": Frames(
            trained=(
                "ubah latar menjadi {c}",
                "ganti latar dengan {c}",
                "buat latar {c}",
                "latar {c}",
                "pakai latar {c}",
                "ubah latar belakang jadi {c}",
                "warnai latar {c}",
                "latar belakang {c}",
            ),
            held=("jadikan latarnya {c}", "saya mau latar {c}"),
        ),
        "tone": Frames(
            trained=("beri {the} {t}", "ubah {the} menjadi {t}", "{the} dengan {t}"), held=("buat {the} {t}",)
        ),
        "gender": Frames(
            trained=("ubah jenis kelamin {the}", "ubah {the} menjadi {a}", "tukar jenis kelamin {the}"),
            held=("jadikan {the} {a}",),
        ),
    },
    sides_of_picture={
        "left": ("ke kiri", "ke sisi kiri", "ke sebelah kiri"),
        "right": ("ke kanan", "ke sisi kanan", "ke sebelah kanan"),
        "top": ("ke atas", "ke bagian atas", "ke sisi atas"),
        "bottom": ("ke bawah", "ke bagian bawah", "ke sisi bawah"),
    },
    tones={"light skin tone": ("kulit terang", "kulit cerah"), "dark skin tone": ("kulit gelap",)},
    questions={
        "what": Frames(
            trained=(
                "apa ini?",
                "apa yang kamu lihat?",
                "ada apa di gambar?",
                "apa isi gambar ini?",
                "ini apa",
                "gambar apa ini?",
            ),
            held=("apa yang terlihat?", "sebutkan ini apa"),
        ),
        "how many": Frames(
            trained=(
                "ada berapa {many}?",
                "berapa banyak {many}?",
                "berapa {many} yang kamu lihat?",
                "hitung {many}",
                "berapa jumlah {many}?",
                "berapa {many} di gambar?",
                "hitung jumlah {many}",
            ),
            held=("bisakah kamu menghitung {many}?", "berapa {many} yang ada?"),
        ),
        "colour": Frames(
            trained=(
                "apa warna {the}?",
                "warna {the} apa?",
                "{the} warnanya apa?",
                "apa warnanya {the}",
                "sebutkan warna {the}",
            ),
            held=("{the} berwarna apa?",),
        ),
        "where": Frames(
            trained=(
                "di mana {a:the} dilihat dari {b:the}?",
                "di mana {a:the} terhadap {b:the}?",
                "di sisi mana dari {b:the} ada {a:the}?",
                "dilihat dari {b:the}, di mana {a:the}?",
                "{a:the} ada di sebelah mana {b:the}?",
            ),
            held=("bagaimana posisi {a:the} terhadap {b:the}?",),
        ),
        "is so": Frames(
            trained=(
                "apakah {a:the} {w} {b:the}?",
                "apakah ada {a} {w} {b:the}?",
                "{a:the} {w} {b:the}, benar?",
            ),
            held=("benarkah {a:the} {w} {b:the}?",),
        ),
        "beside": Frames(
            trained=("apa yang ada {w} {b:the}?", "ada apa {w} {b:the}?"), held=("benda apa {w} {b:the}?",)
        ),
        "is there": Frames(
            trained=(
                "apakah ada {a}?",
                "ada {a}?",
                "apakah kamu melihat {a}?",
                "ada {a} di gambar?",
                "apakah terlihat {a}?",
            ),
            held=("bisakah kamu melihat {a}?",),
        ),
        "caption": Frames(
            trained=(
                "jelaskan gambar ini",
                "deskripsikan gambar",
                "apa saja yang ada di gambar?",
                "beri keterangan gambar",
                "jelaskan apa yang kamu lihat",
                "gambarkan isi foto ini dengan kata-kata",
            ),
            held=("ceritakan gambar ini", "sebutkan semua yang terlihat"),
        ),
    },
    answers={
        "yes": "ya",
        "no": "tidak",
        "left of": "di kiri",
        "right of": "di kanan",
        "above": "di atas",
        "below": "di bawah",
    },
    caption="{x} dengan latar {c}",
    within=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x} di dalam masker",
            "hanya di dalam mask: {x}",
            "{x} di bagian putih",
            "{x} di area yang ditandai",
        ),
        held=("{x} tanpa mengubah yang lain",),
    ),
    masked={
        "add": Frames(
            trained=("tambahkan {a}", "gambar {a} di sini", "taruh {a} di situ", "{a}"),
            held=("letakkan {a} di sini",),
        ),
        "remove": Frames(
            trained=("hapus ini", "hilangkan", "buang yang ini", "hapus {the}"),
            held=("kosongkan bagian ini",),
        ),
        "replace": Frames(
            trained=("ganti dengan {a}", "ubah menjadi {a}", "jadikan {a}", "{a} sebagai gantinya"),
            held=("tukar dengan {a}",),
        ),
        "recolour": Frames(
            trained=("ubah warnanya menjadi {c}", "warnai {c}", "jadikan {c}"), held=("buat warnanya {c}",)
        ),
    },
    this={
        1: Frames(trained=("ini", "benda ini", "yang ini", "yang di gambar"), held=("benda di foto",)),
        2: Frames(trained=("{n} dari ini", "{n} benda ini", "{n} seperti ini"), held=("{n} buah ini",)),
    },
    along=Frames(
        trained=("{x}", "{x} mengikuti garis tepi", "{x} sesuai garis ini", "{x} dengan tata letak ini"),
        held=("{x} mengikuti sketsa",),
    ),
)
