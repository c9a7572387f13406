#!/usr/bin/env python3
"""Renders receipts as a till prints them, with their truth: python3 receipts.py --out DIR --n 500 --seed 7

Every page is 224x224 pixels with cells of 8x16, so that it passes mllama's preprocessing for tiles of 112 untouched.
Page i of a seed is the same on every run. Seed 0 is the stream the model was trained on: evaluate with any other.
Needs Pillow and Debian's fonts-dejavu-core, fonts-liberation, fonts-freefont-ttf and fonts-hack.
"""
import argparse
import json
import os
import random
import sys

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

SIZE, CELL_W, CELL_H = 224, 8, 16
COLUMNS, ROWS = SIZE // CELL_W, SIZE // CELL_H
JITTER = 4
FONT_ROOT = "/usr/share/fonts/truetype"
FONTS = [
    ("fonts-dejavu-core", "dejavu/DejaVuSansMono.ttf"), ("fonts-dejavu-core", "dejavu/DejaVuSansMono-Bold.ttf"),
    ("fonts-liberation", "liberation/LiberationMono-Regular.ttf"),
    ("fonts-liberation", "liberation/LiberationMono-Bold.ttf"),
    ("fonts-freefont-ttf", "freefont/FreeMonoBold.ttf"),
    ("fonts-hack", "hack/Hack-Regular.ttf"), ("fonts-hack", "hack/Hack-Bold.ttf"),
]
STORES = """SPOTLIGHT|WOOLWORTHS|COLES|ALDI|BUNNINGS|KMART|TARGET|BIG W|OFFICEWORKS|JB HI-FI|MYER|REBEL SPORT|IGA|DAN MURPHYS
PETSTOCK|CHEMIST DEPOT|LINCRAFT|COTTON ON|DYMOCKS|RIOT ART|IKEA|COSTCO|LIDL|TESCO|ASDA|MORRISONS|WAITROSE|BOOTS|ARGOS
WALMART|KROGER|SAFEWAY|PUBLIX|WALGREENS|CVS PHARMACY|RITE AID|BEST BUY|HOME DEPOT|LOWES|STAPLES|MACYS|NORDSTROM|KOHLS
STARBUCKS|DUNKIN|SUBWAY|BURGER KING|PIZZA HUT|DOMINOS|TACO BELL|CHIPOTLE|PANERA BREAD|FIVE GUYS|SHAKE SHACK|NANDOS
GREGGS|COSTA COFFEE|CARREFOUR|AUCHAN|MONOPRIX|FNAC|DECATHLON|ZARA|UNIQLO|PRIMARK|REWE|EDEKA|PENNY MARKT|NETTO|KAUFLAND
ROSSMANN|MEDIAMARKT|SPAR|MIGROS|COOP CITY|ALBERT HEIJN|JUMBO|HEMA|ACTION|BLOKKER|MERCADONA|EROSKI|CONAD|ESSELUNGA
HARBOUR BOOKS|CORNER BAKERY|VALLEY FRUIT|SUNRISE CAFE|GREEN GROCER|CITY HARDWARE|RIVER PHARMACY|OAK STREET DELI
MAPLE MARKET|NORTHSIDE MEATS|SEASIDE FISH|GARDEN WORLD|PAPER PLANET|BIKE BARN|TOY KINGDOM|SHOE CABIN|FABRIC HOUSE
COFFEE CORNER|TEA TEMPLE|NOODLE BAR|SUSHI TRAIN|CURRY PALACE|BURGER SHED|PASTA PLACE|PIZZA PRONTO|SALAD STOP|JUICE BOX
ICE CREAM HUT|DONUT DEN|CHICKEN SHOP|STEAK HOUSE|WINE CELLAR|BEER BARN|SPIRITS STORE|CANDLE CO|SOAP STUDIO|BATH BARN
LINEN LOFT|RUG REPUBLIC|LAMP LAND|SOFA CITY|BED BAZAAR|KITCHEN KING|GLASS GALLERY|POTTERY SHED|ART ATTIC|FRAME SHOP
PHOTO FIRST|PHONE FIX|CABLE WORLD|GAME STATION|RECORD ROOM|MUSIC MANIA|DRUM DEPOT|GUITAR GALLERY|BOOK NOOK|COMIC CAVE
PEN PALACE|STAMP SHOP|COIN CORNER|WATCH WORKS|GEM HOUSE|GOLD MINE|SILVER STAR|HAT RACK|SOCK SHOP|TIE BAR|SUIT CITY
DENIM DEN|SKI SHED|SURF SHACK|DIVE CENTRE|GOLF GARAGE|TENNIS TOWN|RUN ROOM|YOGA YARD|GYM GEAR|CAMP KIT|TENT TOWN
FISHING WORLD|BOAT YARD|TYRE KINGDOM|AUTO BARN|CAR CARE|FUEL STOP|METRO PETROL|EXPRESS MART|NIGHT OWL|QUICK STOP
DAILY FRESH|FARM GATE|FRUIT BOWL|HONEY POT|NUT HOUSE|SPICE ROAD|CHEESE CAVE|BUTCHER BLOCK|FLOUR POWER|SWEET TOOTH
PETAL PUSHER|ROSE GARDEN|PLANT PARADE|SEED SHED|TOOL TOWN|PAINT PLACE|TILE STYLE|TIMBER YARD|NAIL BAR|HAIR HQ
EYE STUDIO|DENTAL CARE|VET CLINIC|PET PANTRY|DOG HOUSE|BIRD BARN|FISH TANK|PARTY POP|GIFT GALORE|CARD CORNER|BALLOON BAR
BABY BUNTING|KIDS CLOSET|TWO DOLLAR SHOP|SALVOS STORES|VINNIES|OP SHOP|PAWN KING|LOTTO HUT|NEWS PLUS|POST OFFICE""".replace("\n", "|").split("|")
ITEMS = """MILK|BREAD|EGGS|BUTTER|COFFEE|TEA|RICE|PASTA|APPLES|BANANAS|CHEESE|YARN|FABRIC|PAINT|NAILS|PAPER|PENS|SOAP|BEEF
FISH|LAMB|PORK|HAM|BACON|YOGURT|CREAM|JUICE|WATER|SODA|BEER|WINE|FLOUR|SUGAR|SALT|PEPPER|OIL|HONEY|JAM|NUTS|CHIPS|COOKIES
CAKE|MUFFIN|BAGEL|WRAP|SALAD|SOUP|PIZZA|BURGER|FRIES|ONIONS|CARROTS|POTATOES|TOMATO|GARLIC|LEMONS|GRAPES|MELON|PEARS
BATTERY|CABLE|LAMP|CANDLE|GLUE|TAPE|BRUSH|SPONGE|TOWEL|SOCKS|SHIRT|HAT|GLOVES|NOTEBOOK|MARKER|RIBBON|THREAD|NEEDLE|ZIPPER
BUTTONS|SCREWS|HAMMER|HOSE|SEEDS|MULCH|POT|DOG FOOD|CAT FOOD|ICE CREAM|OAT MILK|FLAT WHITE|HOT CHOC|OLIVE OIL""".replace("\n", "|").split("|")
PAYMENTS = ["CASH", "VISA", "EFTPOS", "MASTERCARD", "AMEX", "DEBIT"]
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
WORDS = """the of and to in is you that it he was for on are as with his they at be this from have or by one had not but what
all were when we there can an your which their said if do will each about how up out them then she many some so these would
other into has more her two like him see time could no make than first been its who now people my made over did down only way
find use may water long little very after words called just where most know""".split()
STREETS = "HIGH KING QUEEN PARK MAIN MILL LAKE HILL CHURCH STATION BRIDGE MARKET GEORGE".split()
NAME, QUANTITY, PRICE = 0, 1, 2
STORE, DATE, TOTAL, PAYMENT, ITEM = 1, 2, 3, 4, 5  # fields; ITEM + 3 * i + (NAME | QUANTITY | PRICE)
MAX_ITEMS, MONTH_NAME = 3, 10
FIELDS = ITEM + 3 * MAX_ITEMS
EMPTY = {"store_name": None, "date": None, "total_amount": None, "payment_method": None, "items": []}


class Page:
    """Text on the cell grid, and for the characters that are answers their field and place within it."""

    def __init__(self):
        self.lines, self.cells = [], []

    def line(self, *parts):
        """Add a row of (column, text[, field, indices]) parts; indices default to 0, 1, 2, ..."""
        row = len(self.lines)
        text = [" "] * COLUMNS
        for column, string, *label in parts:
            for i, c in enumerate(string):
                if 0 <= column + i < COLUMNS:
                    text[column + i] = c
                    field, index = 0, None
                    if label:
                        field, index = label[0], label[1][i] if len(label) > 1 else i
                    if index is not None or c != " ":
                        self.cells.append((row, column + i, c, field if index is not None else 0, index or 0))
        self.lines.append("".join(text))


def invented_name(r, longest):
    """A name that no list holds: syllables, or letters at random so that nothing but reading helps."""
    words = []
    for _ in range(r.choice((1, 1, 2))):
        if r.random() < 0.5:
            words.append("".join(r.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(r.randint(3, 9))))
        else:
            words.append("".join(r.choice("BCDFGHJKLMNPRSTVWZ") + r.choice("AEIOUY") + r.choice(["", "", "N", "R", "S", "L"])
                                 for _ in range(r.randint(2, 4))))
    return " ".join(words)[:longest].strip()


def printed_date(r, y, m, d):
    """(text, indices into YYYY-MM-DD) in one of the formats tills use; day before month."""
    year, month = [0, 1, 2, 3], [5, 6]
    kind = r.randrange(9)
    sep = r.choice("/-.")
    if kind < 4:  # 31/12/2024
        return f"{d:02d}{sep}{m:02d}{sep}{y}", [8, 9, None] + month + [None] + year
    if kind == 4:  # 31/12/24
        return f"{d:02d}{sep}{m:02d}{sep}{y % 100:02d}", [8, 9, None] + month + [None, 2, 3]
    if kind < 7:  # 2024-12-31
        return f"{y}{sep}{m:02d}{sep}{d:02d}", year + [None] + month + [None, 8, 9]
    name = MONTHS[m - 1] if r.random() < 0.5 else MONTHS[m - 1].title()
    sep = r.choice(" -")
    day, where = (f"{d:02d}", [8, 9]) if r.random() < 0.7 or d > 9 else (str(d), [9])
    if kind == 7:  # 31 DEC 2024
        return f"{day}{sep}{name}{sep}{y}", where + [None] + [MONTH_NAME] * 3 + [None] + year
    return f"{day}{sep}{name}{sep}{y % 100:02d}", where + [None] + [MONTH_NAME] * 3 + [None, 2, 3]


def money(cents):
    return f"{cents // 100}.{cents % 100:02d}"


def receipt(r):
    """A receipt's page and its fields; `listed` says whether the store is one of STORES."""
    page, fields = Page(), json.loads(json.dumps(EMPTY))
    listed = r.random() < 0.5
    store = r.choice(STORES) if listed else invented_name(r, 16)
    listed = listed or store in STORES
    has_store, has_date, has_total, has_payment = (r.random() >= p for p in (0.02, 0.05, 0.02, 0.05))
    centre, right = r.random() < 0.7, r.randint(21, 26)
    place = lambda s: max(0, (right + 1 - len(s)) // 2) if centre else 0

    y, m, d = r.randint(2015, 2029), r.randint(1, 12), r.randint(1, 28)
    text, indices = printed_date(r, y, m, d)
    label = r.choice(["", "", "DATE ", "DATE: ", "Date: ", "Date "])
    clock = f"{r.randint(7, 21):02d}:{r.randint(0, 59):02d}"
    where = r.choice(["top", "top", "top", "bottom"])

    def date_line():
        parts = [(len(label), text, DATE, indices)]
        if label:
            parts.append((0, label))
        if r.random() < 0.4:
            parts.append((len(label) + len(text) + r.randint(1, 3), clock))
        shift = r.choice([0, 0, 0, 2, 4])
        page.line(*[(p[0] + shift,) + p[1:] for p in parts])

    if has_date:
        fields["date"] = f"{y}-{m:02d}-{d:02d}"
    if not has_store or r.random() < 0.1:
        head = r.choice(["TAX INVOICE", "RECEIPT", "*** RECEIPT ***", "WELCOME TO", "CUSTOMER COPY"])
        page.line((place(head), head))
    if has_store:
        fields["store_name"] = store
        page.line((place(store), store, STORE))
    if r.random() < 0.6:
        sub = r.choice([f"{r.randint(1, 399)} {r.choice(STREETS)} {r.choice(['ST', 'RD', 'AVE'])}", f"STORE {r.randint(1, 999):03d}",
                        f"PH 0{r.randint(2, 9)} {r.randint(1000, 9999)} {r.randint(1000, 9999)}", "TAX INVOICE",
                        f"ABN {r.randint(10, 99)} {r.randint(100, 999)} {r.randint(100, 999)}", f"REG {r.randint(1, 12)} OP {r.randint(1, 99)}"])
        page.line((place(sub), sub))
    if has_date and where == "top":
        date_line()
    rule = r.choice(["-", "-", "=", "*", " ", ""])
    page.line((0, rule * (right + 1))) if rule else None

    total, style = 0, r.randrange(4)
    for i in range(r.choice((1, 2, 2, 3, 3))):
        name = r.choice(ITEMS) if r.random() < 0.8 else invented_name(r, 9)
        quantity = r.choice((1, 1, 1, 2, 3, 4)) if style else 1
        cents = quantity * r.choice((r.randint(50, 999), r.randint(50, 999), r.randint(1000, 5999)))
        total += cents
        price = money(cents)
        fields["items"].append({"item_name": name, "quantity": str(quantity), "price": price})
        base = ITEM + 3 * i
        parts = [(right + 1 - len(price), price, base + PRICE)]
        dollar = style == 3 and [(right - len(price), "$")] or []
        if style == 1 or (style == 2 and quantity > 1):
            mark = "x" if style == 2 else ""
            parts += [(0, str(quantity), base + QUANTITY), (1, mark), (2 + len(mark), name, base + NAME)]
        elif style == 3 and quantity > 1:
            parts += [(0, name, base + NAME), (len(name) + 1, "x"), (len(name) + 2, str(quantity), base + QUANTITY)]
        else:
            parts += [(0, name, base + NAME)]
        page.line(*dollar, *parts)
    page.line((0, rule * (right + 1))) if rule else None

    dollar = r.choice(["", "", "$"])
    amount = lambda name, cents: ((0, name), (right + 1 - len(dollar + money(cents)), dollar + money(cents)))
    if r.random() < 0.35:
        page.line(*amount(r.choice(["SUBTOTAL", "Subtotal", "SUB TOTAL"]), total * 10 // 11))
    if r.random() < 0.4:
        page.line(*amount(r.choice(["GST", "GST INCL", "TAX", "VAT"]), total // 11))
    if has_total:
        fields["total_amount"] = money(total)
        name = r.choice(["TOTAL", "TOTAL", "TOTAL:", "Total", "TOTAL AUD", "AMOUNT DUE", "GRAND TOTAL", "BALANCE DUE"])
        at = right + 1 - len(money(total))
        page.line((0, name), (at - len(dollar), dollar), (at, money(total), TOTAL))
    if has_payment:
        word = fields["payment_method"] = r.choice(PAYMENTS)
        before = r.choice(["", "", "PAID ", "PAID BY ", "PAYMENT: ", "TENDER "])
        parts = [(0, before), (len(before), word, PAYMENT)]
        if r.random() < 0.4:
            parts.append((right + 1 - len(money(total)), money(total)))
        elif word != "CASH" and r.random() < 0.4:
            parts.append((len(before + word) + 1, f"*{r.randint(0, 9999):04d}"))
        page.line(*parts)
    if has_date and where == "bottom":
        date_line()
    if len(page.lines) < ROWS - 1 and r.random() < 0.5:
        foot = r.choice(["THANK YOU", "Thank you!", "PLEASE COME AGAIN", "HAVE A NICE DAY", "GOODBYE", "KEEP THIS RECEIPT"])
        page.line((place(foot), foot))
    return page, fields, listed


_fonts, _glyphs = {}, {}


def font(which, size):
    if (which, size) not in _fonts:
        package, path = FONTS[which]
        try:
            _fonts[which, size] = ImageFont.truetype(f"{FONT_ROOT}/{path}", size)
        except OSError:
            raise SystemExit(f"receipts.py: {FONT_ROOT}/{path} is missing: apt-get install {package}")
    return _fonts[which, size]


def glyph(which, size, c):
    key = which, size, c
    if key not in _glyphs:
        image = Image.new("L", (CELL_W + 3, CELL_H + 3), 0)
        ImageDraw.Draw(image).text((1, 1), c, fill=255, font=font(which, size))
        _glyphs[key] = image
    return _glyphs[key]


def ink(lines, which, size, x, y, page, colour):
    for i, text in enumerate(lines):
        for j, c in enumerate(text):
            if c != " ":
                page.paste(colour, (x + j * CELL_W - 1, y + i * CELL_H - 1), glyph(which, size, c))


def grain(r, page):
    """Sensor noise: uniform, from the seeded generator so that a page is the same everywhere."""
    amount = r.randint(0, 36)
    if amount:
        noise = Image.frombytes("L", page.size, r.randbytes(page.size[0] * page.size[1])).point(
            [v * amount // 255 for v in range(256)])
        page = ImageChops.add(page, noise, 1, -(amount // 2))
    return page


def paper(r, size):
    light = r.randint(205, 255)
    page = Image.new("L", size, light)
    if r.random() < 0.3:
        shade = Image.linear_gradient("L").resize(size)
        shade = shade.rotate(r.choice((0, 90, 180, 270)))
        page = Image.blend(page, shade, r.random() * 0.12)
    return page


def print_page(r, page, jitter=JITTER):
    """Print a page: its image, and the offset of its cell grid in pixels."""
    which, size, image = r.randrange(len(FONTS)), r.choice((12, 13, 13)), paper(r, (SIZE, SIZE))
    rows = r.randint(0, max(0, ROWS - 1 - len(page.lines)))
    x, y = r.randint(0, jitter), r.randint(0, jitter)
    ink(page.lines, which, size, x, y + rows * CELL_H, image, r.randint(0, 80))
    if r.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(r.random() * 0.5))
    return grain(r, image), x, y + rows * CELL_H


def foreign(r):
    """Something that is not such a receipt: nothing on it can be answered."""
    size = (SIZE, SIZE) if r.random() < 0.7 else (r.randint(40, 640), r.randint(40, 640))
    kind = r.randrange(7)
    image = paper(r, size)
    draw = ImageDraw.Draw(image)
    w, h = size
    if kind == 1:
        small = r.randint(2, 64)
        image = Image.frombytes("L", (small, small), r.randbytes(small * small)).resize(size, Image.BILINEAR)
    elif kind == 2:
        for _ in range(r.randint(1, 30)):
            a, b = r.randint(0, w), r.randint(0, h)
            shape = draw.rectangle if r.random() < 0.5 else draw.ellipse
            shape((a, b, a + r.randint(2, w), b + r.randint(2, h)), fill=r.randint(0, 255))
    elif kind == 3:
        image = Image.linear_gradient("L").resize(size).rotate(r.choice((0, 90, 180, 270)), expand=True).resize(size)
    elif kind == 4:  # prose in the till's own type
        lines = []
        for _ in range(r.randint(1, ROWS - 1)):
            line = " ".join(r.choice(WORDS) for _ in range(r.randint(1, 7)))[:COLUMNS - 1]
            lines.append(line.upper() if r.random() < 0.2 else line)
        ink(lines, r.randrange(len(FONTS)), 13, r.randint(0, 4), r.randint(0, 4), image, r.randint(0, 80))
    elif kind == 5:  # prose in other sizes
        tall = r.choice((5, 6, 7, 8, 20, 26, 34))
        for y in range(0, h, tall + 2):
            draw.text((r.randint(0, 6), y), " ".join(r.choice(WORDS) for _ in range(12)), fill=r.randint(0, 80),
                      font=font(r.randrange(len(FONTS)), tall))
    elif kind == 6:  # a receipt far too small to read
        page = print_page(r, receipt(r)[0])[0]
        side = r.randint(40, 110)
        image.paste(page.resize((side, side), Image.BILINEAR), (r.randint(0, max(0, w - side)), r.randint(0, max(0, h - side))))
    return grain(r, image)


def sample(seed, index, jitter=JITTER, strange=0.04):
    """Page `index` of `seed`: image, fields, listed, cells [(row, column, character, field, place)] on the grid of the image.

    `listed` is None for a page that is no receipt.
    """
    r = random.Random(f"receipts {seed} {index}")
    if r.random() < strange:
        return foreign(r), json.loads(json.dumps(EMPTY)), None, []
    page, fields, listed = receipt(r)
    image, x, y = print_page(r, page, jitter)
    down, across = (y + CELL_H // 2) // CELL_H, (x + CELL_W // 2) // CELL_W
    cells = [(a + down, b + across, c, f, i) for a, b, c, f, i in page.cells]
    return image, fields, listed, [c for c in cells if c[0] < ROWS and c[1] < COLUMNS]


def answer(fields):
    """The JSON the model writes for these fields."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", required=True)
    p.add_argument("--n", type=int, default=500)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--foreign", type=float, default=0.0, help="share of pages that are not receipts")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.out, "truth.jsonl"), "w", encoding="utf-8") as f:
        for i in range(a.n):
            image, fields, listed, _ = sample(a.seed, i, strange=a.foreign)
            name = f"receipt-{a.seed}-{i:04d}.png"
            image.convert("RGB").save(os.path.join(a.out, name))
            f.write(json.dumps({"file": name, "fields": fields, "listed": listed}, ensure_ascii=False) + "\n")
    print(f"{a.n} pages in {a.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
