"""Texts on which two tokenizers are compared, by what is particular about them.

All are in Unicode's normal form C: llama.cpp normalizes no text for byte-level BPE, where tokenizers such as Qwen's do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

TEXTS: Mapping[str, str] = {
    "English": "The quick brown fox can't jump over lazy dogs; it's 12:30 o'clock, ISN'T it? I'll \"quote\" (we'd).",
    "numbers": "1 23 456 7890 12345 3.14159 1,000,000 0x1F 6.02e23 50% $9.99 2026-11-22T10:30:00Z v1.2.3",
    "code": "def main(argv: list[str]) -> int:\r\n    return {'key': [0x1F, 3.14e-10]}  # TODO\n\n\n"
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 2; }\n\tif (x && !y || z != 0) goto end;\n"
    '<div class="a">$x^2$ &amp; C:\\path\\to</div> https://example.org/?q=a%20b user@example.org `ls -la | wc -l`',
    "white space": "one two  three   four    five\ttab\t\ttabs\nline\n\nlines\n\n\n   indented\n \n  \n\t\n end",
    "white space at the ends": "  text  ",
    "Latin letters": "Les élèves naïfs où ça ? größe, straße — señor, coração, žluťoučký kůň, iyiyim, crêpes",
    "Latin capitals": "ÉCOLE École ÜBER Übermut ŁÓDŹ NAÏVE İstanbul ÅNGSTRÖM Ça",
    "other alphabets": "Привет, мир! съешь МИР. Ελληνικά γλώσσα. שלום עולם. مرحبا بالعالم. Բարեւ ձեզ. გამარჯობა",
    "Chinese and Japanese": "中文文本，没有空格。日本語のテキスト、カタカナとひらがな。「引用」２０２６年",
    "Korean": "한국어 문장입니다. 오늘은 날씨가 좋네요!",
    "marks": "नमस्ते दुनिया, हिन्दी में। ภาษาไทย தமிழ் বাংলা",
    "emoji": "🙂 👍🏽 👩‍👩‍👧 🇩🇪 ❤️ 🦙🦙 a🙂b",
    "symbols": "½ ∑ → x₂ Ⅷ © ™ … – — « » ‹ › € £ ¥ § ° ± × ÷ ≠ ≤ ∞ √ ≈ #tag @me ~!@#$%^&*()_+-=[]{}|;:,./<>?",
    "invisible characters": "no\u00a0break\u00a0space zero\u200bwidth soft\u00adhyphen",
}


def texts_without(names: Collection[str]) -> str:
    """All texts, one per line, but those of ``names``."""
    return "\n".join(text for name, text in TEXTS.items() if name not in names)
