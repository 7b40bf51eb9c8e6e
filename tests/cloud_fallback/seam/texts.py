# ruff: noqa: RUF001, E501 - the texts are what they are
"""Answers in twenty scripts and forms, to be cut anywhere."""

from __future__ import annotations

ENGLISH = (
    "Harbour towns change slowly. The first ferry leaves at 6:40, and by then the bakery on Quay "
    "Street has sold its rolls; nobody minds the fog. “You get used to it,” says Orla, who has "
    "lived here since 1974.\n\nHer brother doesn't agree. He moved to the hills — two miles inland, "
    "no more — because the damp got into everything he owned: his books, his bed, even the piano."
)
GERMAN = (
    "Der Zug nach Görlitz fährt um 7.12 Uhr ab, sofern nichts dazwischenkommt. Frau Weiß, die seit "
    "Jahren pendelt, nimmt z. B. immer den dritten Wagen. „Da ist es ruhig“, sagt sie. Außerdem "
    "gibt es dort Steckdosen, und man kommt in Löbau schneller zur Straßenbahn."
)
RUSSIAN = (
    "Вечером над озером поднялся туман, и лодки вернулись раньше обычного. Старик, который чинил "
    "сети, заметил: «Завтра будет ветер». Никто ему не поверил, но утром действительно подул "
    "северный ветер, и рыбаки остались дома пить чай с мёдом."
)
CHINESE = (
    "图书馆一共有三层。第一层是儿童阅览室，周末总是很热闹；第二层放的是历史和地理方面的书。"
    "管理员王先生说：“请大家把手机调成静音。”第三层比较安静，适合写论文，不过冬天有点冷，"
    "所以很多学生会带上毯子和热水。"
)
JAPANESE = (
    "駅前の喫茶店は朝七時に開きます。店主の佐藤さんは、毎朝コーヒー豆を自分で焙煎していて、"
    "香りが通りまで広がります。「急がなくていいですよ」と笑いながら、常連客に新聞を手渡します。"
    "昼過ぎになると学生が増え、窓際の席はすぐに埋まってしまいます。"
)
THAI = (
    "ตลาดน้ำเปิดตั้งแต่เช้ามืด แม่ค้าพายเรือมาขายผลไม้ ขนม และก๋วยเตี๋ยว นักท่องเที่ยวส่วนใหญ่มาถึงหลังแปดโมง "
    "ซึ่งตอนนั้นอากาศเริ่มร้อนแล้ว คุณยายคนหนึ่งบอกว่าเมื่อก่อนคลองนี้ใสจนเห็นปลา แต่ทุกวันนี้ต้องช่วยกันเก็บขยะ"
)
ARABIC = (
    "تقع القرية القديمة على سفح الجبل، ويصل إليها الزائر عبر طريق ضيق تحيط به أشجار الزيتون. قال "
    "المرشد: «انتبهوا إلى الدرجات»، ثم تابع السير نحو القلعة التي بُنيت سنة 1183. في المساء يجتمع "
    "الأهالي قرب النبع، ويشربون الشاي بالنعناع حتى وقت متأخر."
)
HINDI = (
    "गाँव के बाहर एक पुराना कुआँ है, जिसके पास हर शाम बच्चे खेलते हैं। दादी कहती हैं, “पहले यहाँ बहुत पानी "
    "था।” अब बारिश कम होती है, इसलिए लोगों ने मिलकर तीन छोटे तालाब बनाए हैं। पिछले साल उनमें से दो भर गए, "
    "और खेतों में फिर से हरियाली लौट आई।"
)
KOREAN = (
    "시장 골목 끝에는 오래된 국숫집이 하나 있다. 주인아주머니는 새벽 네 시에 일어나 육수를 끓이고, 점심이 되기 "
    "전에 면을 모두 뽑아 둔다. “천천히 드세요.” 손님이 많아도 그 말은 빠지지 않는다. 비가 오는 날이면 줄이 "
    "길 건너 약국 앞까지 이어진다."
)
HEBREW = (
    "הספרייה העירונית נפתחת בשעה 9:00 ונסגרת ב-19:30, חוץ מימי שישי. בקומה השנייה יש אולם קריאה שקט, "
    'ושם אפשר להזמין ספרים מ"המחסן" לפי מספר קטלוגי כמו QA76.9. לפעמים מתקיימות גם הרצאות קצרות.'
)
EMOJI = (
    "Packing list 🧳: passport 🛂, sun cream 🧴☀️, snacks 🍎🥨. Crew: 👩🏽‍🚀 Ana, 🧑‍🍳 Li, 👨‍👩‍👧 the Hills — and the dog 🐕‍🦺! "
    "Mood: 😅→😀→🤩. Flags we will see: 🇳🇴🇸🇪🇫🇮. Votes: 👍🏾 4️⃣, 👎🏻 1️⃣. See you at the gate ✈️🏁, don't be late ⏰!"
)
NESTED_LIST = (
    "To set up the tent:\n\n1. Clear the ground of stones and branches.\n2. Spread the groundsheet:\n"
    "   - shiny side down,\n   - corners pegged,\n   - no folds under the door.\n3. Thread the poles:\n"
    "   - the long ones cross in the middle,\n   - the short one goes over the porch.\n"
    "4. Raise everything together, then peg out the guy lines.\n5. Check the zips before dark.\n"
)
TABLE = (
    "Here are the trains:\n\n| Train | From | To | Departs | Price |\n|:------|:-----|:---|--------:|------:|\n"
    "| IC 714 | Graz | Wien | 07:26 | 24.90 |\n| RJ 132 | Graz | Wien | 08:26 | 29.90 |\n"
    "| IC 716 | Graz | Wien | 09:26 | 24.90 |\n| RJ 134 | Graz | Linz | 10:11 | 33.40 |\n\n"
    "The railjet is faster by **20 minutes**.\n"
)
PYTHON = (
    "Here is the function:\n\n```python\nfrom collections import Counter\n\n\ndef most_common(words: list[str], "
    'n: int = 3) -> list[str]:\n    """The *n* most common words."""\n    counts = Counter()\n'
    '    for word in words:\n        key = word.strip(".,;!?").lower()\n        if not key:\n            continue\n'
    "        counts[key] += 1\n    return [word for word, _ in counts.most_common(n)]\n```\n\n"
    "Call it with `most_common(text.split())`; ties keep the order in which words were first seen.\n"
)
SQL_AND_SHELL = (
    "First create the index:\n\n```sql\nCREATE INDEX idx_orders_day ON orders (customer_id, ordered_at);\n"
    "SELECT c.name, COUNT(*) AS n\nFROM customers AS c\nJOIN orders AS o ON o.customer_id = c.id\n"
    "WHERE o.ordered_at >= '2024-01-01'\nGROUP BY c.name;\n```\n\nThen run it:\n\n```bash\n"
    "psql -h localhost -U app -d shop -f report.sql > report.txt && wc -l report.txt\n```\n"
)
JSON_TEXT = (
    '{\n  "station": "Quay Street",\n  "opened": 1911,\n  "lines": [\n    {"id": "A", "colour": "#d22", "stops": 14},\n'
    '    {"id": "B", "colour": "#28c", "stops": 9},\n    {"id": "N7", "colour": null, "stops": 21}\n  ],\n'
    '  "notes": "Lift out of order; see \\"works\\" page.",\n  "accessible": false\n}\n'
)
MARKDOWN = (
    "# Sourdough, slowly\n\n**You need:** flour, water, salt — and *time*.\n\n## Day one\n\n> Feed the starter in the "
    "morning.\n> It should double by noon.\n\nMix `500 g` of flour with `350 g` of water ([why?](https://example.org/hydration)).\n\n"
    "## Day two\n\n* Fold **gently**, four times.\n* Rest for ~~two~~ *three* hours.\n* Bake at `240 °C` until it is brown.\n"
)
MATH = (
    "Let $f(x) = x^2 - 4x + 3$. Then $f'(x) = 2x - 4$, which is zero at $x = 2$, so\n\n$$\nf(2) = 4 - 8 + 3 = -1.\n$$\n\n"
    "Since $f''(x) = 2 > 0$, this is a minimum; the roots are $x_1 = 1$ and $x_2 = 3$. In general ∑ᵢ₌₁ⁿ i = n(n+1)/2, "
    "and √2 ≈ 1.41421 while π ≈ 3.14159."
)
DIALOGUE = (
    '"Where were you?" asked Tom.\n\n"At the mill," said Nell. "The wheel is stuck again, and Father won\'t look at it before '
    'Sunday."\n\n"Then we shall look at it ourselves." He took the lantern from its hook.\n\n"Sure," she said, "but if he wakes '
    'up, it was your idea."\n\nThey went out by the kitchen door. Somewhere an owl called twice, and the rain began.'
)
POEM = (
    "The gate swings open, the gate swings shut,\nA lantern moves in the shepherd's hut,\nThe hill is dark and the moon is thin,\n"
    "Come in, come in, my dear, come in.\n\nThe gate swings open, the wind blows through,\nThe grass is silver and wet with dew,\n"
    "The kettle sings and the cat is thin,\nCome in, come in, my dear, come in.\n"
)
CSV = (
    "id;place;day;mm\n1;Bergen;2024-03-01;14.2\n2;Bergen;2024-03-02;0.0\n3;Bergen;2024-03-03;7.9\n4;Oslo;2024-03-01;1.1\n"
    "5;Oslo;2024-03-02;0.0\n6;Oslo;2024-03-03;3.4\n7;Tromsø;2024-03-01;5.5\n8;Tromsø;2024-03-02;6.0\n9;Tromsø;2024-03-03;0.2\n"
)

TEXTS = {
    name.lower(): text
    for name, text in list(globals().items())
    if name.isupper() and isinstance(text, str)
}
