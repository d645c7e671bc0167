"""Languages as containers and file names write them: ISO 639 codes, English and native names, as one short tag."""

from __future__ import annotations

import re
import unicodedata

# Two-letter code (ISO 639-1): three-letter codes (ISO 639-2, both forms, and those of subtitle sites), then names in
# English and in the language.
_TABLE = """
af: afr, afrikaans
am: amh, amharic, አማርኛ
ar: ara, arabic, العربية, عربي, عربى
az: aze, azerbaijani, azərbaycan
be: bel, belarusian, беларуская
bg: bul, bulgarian, български
bn: ben, bengali, bangla, বাংলা
bs: bos, bosnian, bosanski
ca: cat, catalan, català
cs: cze, ces, czech, čeština, česky
cy: wel, cym, welsh, cymraeg
da: dan, danish, dansk
de: ger, deu, german, deutsch
el: gre, ell, greek, ελληνικά
en: eng, english
eo: epo, esperanto
es: spa, esp, spanish, español, castilian, castellano, espanol latino, latino, latam
et: est, estonian, eesti
eu: baq, eus, basque, euskara
fa: per, fas, persian, farsi, فارسی
fi: fin, finnish, suomi
fil: filipino
fr: fre, fra, french, français, vostfr
ga: gle, irish, gaeilge
gl: glg, galician, galego
gu: guj, gujarati, ગુજરાતી
he: heb, hebrew, עברית
hi: hin, hindi, हिन्दी, हिंदी
hr: hrv, scr, croatian, hrvatski
hu: hun, hungarian, magyar
hy: arm, hye, armenian, հայերեն
id: ind, indonesian, bahasa indonesia
is: ice, isl, icelandic, íslenska
it: ita, italian, italiano
ja: jpn, japanese, 日本語
ka: geo, kat, georgian, ქართული
kk: kaz, kazakh, қазақша
km: khm, khmer, ខ្មែរ
kn: kan, kannada, ಕನ್ನಡ
ko: kor, korean, 한국어
ku: kur, kurdish, kurdî
la: lat, latin
lb: ltz, luxembourgish, lëtzebuergesch
lo: lao, ລາວ
lt: lit, lithuanian, lietuvių
lv: lav, latvian, latviešu
mk: mac, mkd, macedonian, македонски
ml: mal, malayalam, മലയാളം
mn: mon, mongolian, монгол
mr: mar, marathi, मराठी
ms: may, msa, malay, bahasa melayu
mt: mlt, maltese, malti
my: bur, mya, burmese, မြန်မာ
nb: nob, norwegian bokmål, bokmål
ne: nep, nepali, नेपाली
nl: dut, nld, dutch, nederlands, flemish, vlaams
nn: nno, nynorsk, norwegian nynorsk
no: nor, norwegian, norsk
pa: pan, punjabi, ਪੰਜਾਬੀ
pl: pol, polish, polski
ps: pus, pashto, پښتو
pt: por, pob, ptbr, portuguese, português, brazilian
ro: rum, ron, romanian, română
ru: rus, russian, русский
si: sin, sinhala, සිංහල
sk: slo, slk, slovak, slovenčina
sl: slv, slovenian, slovene, slovenščina
so: som, somali, soomaali
sq: alb, sqi, albanian, shqip
sr: srp, scc, serbian, српски, srpski
sv: swe, swedish, svenska
sw: swa, swahili, kiswahili
ta: tam, tamil, தமிழ்
te: tel, telugu, తెలుగు
th: tha, thai, ไทย
tl: tgl, tagalog
tr: tur, turkish, türkçe
uk: ukr, ukrainian, українська
ur: urd, urdu, اردو
uz: uzb, uzbek, ozbek, o\u02bbzbek
vi: vie, vietnamese, tiếng việt
yi: yid, yiddish, ייִדיש
yue: cantonese, 粵語, 廣東話, 广东话
zh: chi, zho, cmn, chs, cht, chinese, mandarin, 中文, 汉语, 漢語, 简体中文, 繁體中文, 简体, 繁體
zu: zul, zulu
"""
# Further two-letter codes of ISO 639-1, without names: no subtitle site offers them.
_FURTHER = (
    "aa ab ae ak an as av ay ba bi bm bo br ce ch co cr cu cv dv dz ee ff fj fo fy gd gn gv ha ho ht hz ia ie ig ii ik "
    "io iu jv kg ki kj kl kr ks kv kw ky lg li ln lu mg mh mi na nd ng nr nv ny oc oj om or os pi qu rm rn rw sa sc sd "
    "se sg sm sn ss st su tg ti tk tn to ts tt tw ty ug ve vo wa wo xh yo za"
)
_UNKNOWN = frozenset({"", "und", "unk", "mis", "mul", "zxx", "none", "qaa", "unknown"})
_SCRIPTS = frozenset({"hans", "hant", "latn", "cyrl", "arab", "deva", "grek", "hebr"})
_REGION = re.compile(r"[a-z]{2}|[0-9]{3}")
_CODE = re.compile(r"[a-z]{2,3}(?:[-_][a-z0-9]{1,8}){0,3}")


def _folded(text: str) -> str:
    """Return a name case-folded and without marks on Latin letters: file names have both "Français" and "francais"."""
    decomposed = unicodedata.normalize("NFKD", text.strip().casefold())
    plain = "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f")
    return " ".join(unicodedata.normalize("NFC", plain).split())


def _read_table() -> dict[str, str]:
    codes = {code: code for code in _FURTHER.split()}
    for line in _TABLE.strip().splitlines():
        code, _, names = line.partition(": ")
        codes |= {_folded(name): code for name in (code, *names.split(", "))}
    return codes


_BY_NAME = _read_table()


def named_language(text: str) -> str:
    """Return the tag of a code, a tag or a name of a language ("eng", "pt_BR", "en-eEY6OEpapPo", "Français", "hi").

    The tag is lower case: the shortest code of ISO 639, with script and region where they follow ("pt-br", "zh-hans").
    Suffixes that download tools append are dropped. "" if the table has no such language.
    """
    name = _folded(text)
    if name in _BY_NAME:
        return _BY_NAME[name]
    code, *rest = name.replace("_", "-").split("-")
    if len(code) > 3 or code not in _BY_NAME:
        return ""
    tag = [_BY_NAME[code]]
    if rest and rest[0] in _SCRIPTS:
        tag.append(rest.pop(0))
    if rest and _REGION.fullmatch(rest[0]):
        tag.append(rest[0])
    return "-".join(tag)


def language_tag(text: str) -> str:
    """Return the language tag of a container's language field, "" if unknown.

    A well-formed code that the table lacks is kept as it is: ISO 639-3 has 7,900.
    """
    if _folded(text) in _UNKNOWN:
        return ""
    code = text.strip().lower().replace("_", "-")
    return named_language(text) or (code if _CODE.fullmatch(code) else "")
