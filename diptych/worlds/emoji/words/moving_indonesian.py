"""Indonesian words for clips."""

from diptych.worlds.emoji.words.grammar import Frames
from diptych.worlds.emoji.words.moving import Moving

INDONESIAN_MOVING = Moving(
    code="id",
    acts={
        "move": Frames(
            trained=(
                "{a} bergerak {w}",
                "{a} bergerak {w}",
                "{a} pergi {w}",
                "{a} bergeser {w}",
                "{a} berpindah {w}",
            ),
            held=("{a} meluncur {w}",),
        ),
        "jump": Frames(
            trained=("{a} melompat {t}", "{a} melompat {t}", "{a} meloncat {t}", "{a} lompat {t}"),
            held=("{a} melonjak {t}",),
        ),
        "appear": Frames(
            trained=("{a} muncul", "{a} muncul", "muncul {a}", "tiba-tiba ada {a}", "{a} datang"),
            held=("tiba-tiba {a} kelihatan",),
        ),
        "vanish": Frames(
            trained=("{a} menghilang", "{a} menghilang", "{a} hilang", "tiba-tiba {a} hilang"),
            held=("{a} lenyap",),
        ),
        "grow": Frames(
            trained=("{a} membesar", "{a} membesar", "{a} menjadi lebih besar", "{a} tumbuh besar"),
            held=("ukuran {a} bertambah",),
        ),
        "shrink": Frames(
            trained=("{a} mengecil", "{a} mengecil", "{a} menjadi lebih kecil", "{a} menyusut"),
            held=("ukuran {a} berkurang",),
        ),
        "swap": Frames(
            trained=(
                "{a} dan {b} bertukar tempat",
                "{a} dan {b} bertukar tempat",
                "{a} dan {b} bertukar posisi",
                "{a} bertukar tempat dengan {b}",
            ),
            held=("{a} dan {b} saling berganti tempat",),
        ),
    },
    orders={
        "move": Frames(
            trained=(
                "gerakkan {a:the} {w}",
                "buat {a:the} bergerak {w}",
                "pindahkan {a:the} {w}",
                "geser {a:the} {w}",
                "{a:the} harus bergerak {w}",
                "bisakah {a:the} bergerak {w}?",
            ),
            held=("bawa {a:the} {w}",),
        ),
        "jump": Frames(
            trained=(
                "buat {a:the} melompat {t}",
                "biarkan {a:the} melompat {t}",
                "{a:the} harus melompat {t}",
                "bisakah {a:the} melompat {t}?",
            ),
            held=("aku mau {a:the} melompat {t}",),
        ),
        "appear": Frames(
            trained=("munculkan {a}", "buat {a} muncul", "biarkan {a} muncul"),
            held=("aku mau {a} muncul",),
        ),
        "vanish": Frames(
            trained=("hilangkan {a:the}", "buat {a:the} menghilang", "biarkan {a:the} hilang"),
            held=("aku mau {a:the} menghilang",),
        ),
        "grow": Frames(
            trained=("buat {a:the} membesar", "biarkan {a:the} membesar", "{a:the} harus membesar"),
            held=("aku mau {a:the} membesar",),
        ),
        "shrink": Frames(
            trained=("buat {a:the} mengecil", "biarkan {a:the} mengecil", "{a:the} harus mengecil"),
            held=("aku mau {a:the} mengecil",),
        ),
        "swap": Frames(
            trained=(
                "tukar {a:the} dan {b:the}",
                "tukar tempat {a:the} dan {b:the}",
                "buat {a:the} dan {b:the} bertukar tempat",
            ),
            held=("aku mau {a:the} dan {b:the} bertukar tempat",),
        ),
    },
    ways={
        "left": ("ke kiri", "ke kiri", "ke sebelah kiri", "ke tepi kiri"),
        "right": ("ke kanan", "ke kanan", "ke sebelah kanan", "ke tepi kanan"),
        "up": ("ke atas", "ke atas", "ke tepi atas"),
        "down": ("ke bawah", "ke bawah", "ke tepi bawah"),
    },
    times=(("sekali", "satu kali", ""), ("dua kali", "2 kali"), ("tiga kali", "3 kali")),
    beside=Frames(
        trained=("{x} di samping {b}", "{x} di sebelah {b}", "ada {b}, dan {x}", "{x}, di sampingnya {b}"),
        held=("{x} di dekat {b}",),
    ),
    then=Frames(
        trained=(
            "pertama {x}, lalu {y}",
            "mula-mula {x}, kemudian {y}",
            "{x}, lalu {y}",
            "{x}, setelah itu {y}",
        ),
        held=("awalnya {x}, akhirnya {y}",),
    ),
    clip=Frames(
        trained=(
            "{x}",
            "{x}",
            "{x}",
            "klip: {x}",
            "video: {x}",
            "buat video: {x}",
            "buatkan klip di mana {x}",
            "tunjukkan bagaimana {x}",
            "animasi: {x}",
        ),
        held=("rekam ini: {x}", "aku mau lihat {x}"),
    ),
    backwards=Frames(
        trained=("putar mundur", "balikkan klipnya", "putar klip ini mundur", "jalankan terbalik"),
        held=("dari akhir ke awal",),
    ),
    verbs={
        "move": ("bergerak", "bergerak", "bergeser"),
        "jump": ("melompat", "melompat", "meloncat"),
        "appear": ("muncul", "muncul", "datang"),
        "vanish": ("menghilang", "hilang"),
        "grow": ("membesar", "membesar", "menjadi lebih besar"),
        "shrink": ("mengecil", "mengecil", "menjadi lebih kecil"),
    },
    questions={
        "what acts": Frames(
            trained=("apa yang {v}?", "benda apa yang {v}?", "apa yang {v} di klip?", "yang mana yang {v}?"),
            held=("sebutkan apa yang {v}",),
        ),
        "where to": Frames(
            trained=(
                "ke mana {a:the} bergerak?",
                "ke mana {a:the} pergi?",
                "ke arah mana {a:the} bergerak?",
                "{a:the} bergerak ke mana?",
            ),
            held=("{a:the} menuju ke mana?",),
        ),
        "how often": Frames(
            trained=(
                "berapa kali {a:the} melompat?",
                "berapa kali {a:the} meloncat?",
                "{a:the} melompat berapa kali?",
                "hitung lompatan {a:the}",
            ),
            held=("ada berapa lompatan {a:the}?",),
        ),
        "what first": Frames(
            trained=(
                "mana yang pertama, {a:the} atau {b:the}?",
                "mana yang lebih dulu, {a:the} atau {b:the}?",
                "apa yang mulai, {a:the} atau {b:the}?",
            ),
            held=("siapa duluan, {a:the} atau {b:the}?",),
        ),
        "what happens": Frames(
            trained=(
                "apa yang terjadi?",
                "apa yang terjadi di sini?",
                "jelaskan klip ini",
                "apa isi video ini?",
                "gambarkan klipnya",
            ),
            held=("ceritakan videonya",),
        ),
    },
    to={"left": "ke kiri", "right": "ke kanan", "up": "ke atas", "down": "ke bawah"},
    often=("sekali", "dua kali", "tiga kali"),
)
