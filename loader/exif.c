/* exif.c - the one EXIF tag that changes pixels: orientation, tag 0x0112 of the first directory.
 *
 * A TIFF block: "II" or "MM", 42, offset of the directory; there a count and 12-byte entries {tag,
 * type, count, value}. Every offset is checked; whatever does not fit means 1 (upright). */
#include "image_codec.h"

enum { TIFF_HEADER = 8, TIFF_ENTRY = 12, TAG_ORIENTATION = 0x0112 };
enum { TYPE_SHORT = 3, TYPE_LONG = 4 };

static unsigned read_u16(const uint8_t *p, bool little)
{
    return little ? p[0] | (unsigned)p[1] << 8 : (unsigned)p[0] << 8 | p[1];
}

static uint32_t read_u32(const uint8_t *p, bool little)
{
    uint32_t first = read_u16(p, little), second = read_u16(p + 2, little);
    return little ? first | second << 16 : first << 16 | second;
}

/* The first value, as Pillow takes it: of a SHORT or LONG stored in the entry itself. */
static int entry_orientation(const uint8_t *entry, bool little)
{
    unsigned type = read_u16(entry + 2, little);
    uint32_t count = read_u32(entry + 4, little), value = 0;
    if (type == TYPE_SHORT && (count == 1 || count == 2))
        value = read_u16(entry + 8, little);
    else if (type == TYPE_LONG && count == 1)
        value = read_u32(entry + 8, little);
    return value >= 1 && value <= 8 ? (int)value : 1;
}

int img_exif_orientation(const uint8_t *tiff, size_t size)
{
    if (size < TIFF_HEADER || tiff[0] != tiff[1] || (tiff[0] != 'I' && tiff[0] != 'M'))
        return 1;
    bool little = tiff[0] == 'I';
    size_t at = read_u32(tiff + 4, little);
    if (read_u16(tiff + 2, little) != 42 || at > size - 2)
        return 1;
    unsigned entries = read_u16(tiff + at, little);
    at += 2;
    int orientation = 1;
    for (unsigned i = 0; i < entries && size - at >= TIFF_ENTRY; i++, at += TIFF_ENTRY)
        if (read_u16(tiff + at, little) == TAG_ORIENTATION)
            orientation = entry_orientation(tiff + at, little);
    return orientation;
}
