# -*- coding: utf-8 -*-
"""Prints commands and the ids that the original gives them, one pair a line: a tab, then the command to the end of the line.

    LC_ALL=C.UTF-8 python2.7 python2-ids.py > python2-ids.tsv

A 64-bit Python 2.7 with wide characters (sys.maxunicode 1114111), as Linux distributions build it, made the file beside this.
"""
from __future__ import unicode_literals

import io
import random
import sys

REAL = """true
false
sleep 30
a
uptime
/usr/local/bin/redis-server /etc/redis.conf
/usr/bin/php /var/www/app/artisan schedule:run
cd /srv/app && ./bin/rake jobs:work RAILS_ENV=production
pg_dump -Fc app | gzip -9 > /backup/app-$(date +%F).dump.gz
find /tmp -type f -mtime +7 -print0 | xargs -0 rm -f
echo 'a  b' "c $HOME" `id -un` \\\\ \\$
for i in 1 2 3; do echo $i; done
[ -e /run/x ] && exit 0; exec /opt/x/y --level=3 --name="x y" 2>&1
замок
echo привет мир
/opt/größe/läufer --straße=Ümläut
naïve café
日本語 コマンド
echo 한국어
שלום עולם
echo مرحبا
é
e\u0301
\u00ff
\u0100
\ud7ff
\uffee
echo 🔒
🔒🔑
𝒳 x 𐍈
\U0010fffd
僺栞倌頛韜賖籈
簔怖砲鷧錵壉蚏""".split("\n")

ASCII = "".join(map(chr, range(0x21, 0x7f)))
LATIN = "".join(map(unichr, range(0xa1, 0x180)))
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюяАБВГДЕЖЗ"
CJK = "日本語漢字鍵錠列待機夜間処理"
BEYOND = "🔒🔓🔑🎛𝒳𝒴𐍈𠀋"


def commands():
    """What is real, each character by itself, and words at random; the same ones every time."""
    for command in [""] + REAL + list(ASCII):
        yield command
    chance = random.Random(2)
    for alphabet in [ASCII, ASCII, ASCII, LATIN, CYRILLIC, CJK, ASCII + CYRILLIC + CJK, ASCII + BEYOND]:
        for length in range(1, 41):
            command = "".join(chance.choice(alphabet + " ") for _ in range(length)).strip()
            if command:
                yield command


def main():
    """Every command once."""
    assert sys.version_info[:2] == (2, 7) and sys.maxint == 2 ** 63 - 1 and sys.maxunicode == 0x10ffff and not sys.flags.hash_randomization
    seen = set()
    out = io.open(sys.stdout.fileno(), "w", encoding="utf-8")
    for command in commands():
        if command not in seen:
            seen.add(command)
            out.write("{0}\t{1}\n".format(abs(hash(command)), command))


main()
