/* normalise.c - one form for dates, amounts, quantities and names. */
#include "normalise.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- dates ---- */

static const char *const months[12] = {"january",   "february", "march",    "april",
                                       "may",       "june",     "july",     "august",
                                       "september", "october",  "november", "december"};
static const char *const weekdays[7] = {"monday", "tuesday",  "wednesday", "thursday",
                                        "friday", "saturday", "sunday"};

/* A word of a date: a number with its count of digits, or a month's name. */
struct part {
    int value, digits; /* digits 0: a month by name */
};

/* Index of the name that word (n letters, at least three) starts, -1 if none. "sept" is september.
 */
static int name_index(const char *const *names, int n_names, const char *word, size_t n)
{
    for (int i = 0; i < n_names; i++)
        if (n >= 3 && n <= strlen(names[i]) && strncasecmp(names[i], word, n) == 0)
            return i;
    return -1;
}

static bool is_ordinal(const char *word, size_t n)
{
    return n == 2 && (strncasecmp(word, "st", 2) == 0 || strncasecmp(word, "nd", 2) == 0 ||
                      strncasecmp(word, "rd", 2) == 0 || strncasecmp(word, "th", 2) == 0);
}

/* 14:33, 14:33:05, 2:33 PM, T14:33:05Z, +10:00: everything from s on must be part of a time. */
static bool is_time(const char *s)
{
    if (toupper((unsigned char)*s) == 'T' && isdigit((unsigned char)s[1]))
        s++;
    size_t digits = strspn(s, "0123456789");
    if (digits < 1 || digits > 2 || s[digits] != ':')
        return false;
    s += strspn(s, "0123456789:.+- ");
    while (isalpha((unsigned char)*s) && strchr("apmzhAPMZH", *s))
        s++;
    return *s == 0 || (isspace((unsigned char)*s) && s[1] == 0);
}

/* Cuts text into at most three parts; false where something else stands in it. */
static int split_date(struct part parts[3], const char *s)
{
    int n = 0;
    while (*s) {
        if (strchr(" \t\n,./-", *s)) {
            s++;
        } else if (n == 3) {
            return is_time(s) ? n : -1;
        } else if (isdigit((unsigned char)*s)) {
            int digits = (int)strspn(s, "0123456789");
            if (digits > 8)
                return -1;
            parts[n++] = (struct part){atoi(s), digits};
            s += digits;
            if (is_ordinal(s, strcspn(s, " \t,./-")))
                s += 2;
        } else if (isalpha((unsigned char)*s)) {
            size_t length = 0;
            while (isalpha((unsigned char)s[length]))
                length++;
            int month = name_index(months, 12, s, length);
            if (month >= 0)
                parts[n++] = (struct part){month + 1, 0};
            else if (n > 0 || name_index(weekdays, 7, s, length) < 0)
                return -1;
            s += length;
        } else {
            return -1;
        }
    }
    return n;
}

static bool write_date(char out[11], int year, int month, int day)
{
    static const int lengths[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (year < 1900 || year > 2099 || month < 1 || month > 12 || day < 1)
        return false;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day > lengths[month - 1] + (month == 2 && leap))
        return false;
    snprintf(out, 11, "%04d-%02d-%02d", year % 10000, month % 100, day % 100);
    return true;
}

/* The year of a part at a year's place: four digits, or two. */
static int full_year(struct part p)
{
    if (p.digits == 4)
        return p.value;
    return p.digits == 2 ? p.value + (p.value < 70 ? 2000 : 1900) : -1;
}

bool nrm_date(char out[11], const char *text, enum nrm_date_order order)
{
    struct part p[3];
    int n = split_date(p, text);
    if (n == 1 && p[0].digits == 8)
        return write_date(out, p[0].value / 10000, p[0].value / 100 % 100, p[0].value % 100);
    if (n != 3)
        return false;
    if (p[0].digits == 4) /* year, month, day */
        return p[2].digits <= 2 && p[2].digits > 0 && p[1].digits <= 2 &&
               write_date(out, p[0].value, p[1].value, p[2].value);
    int year = full_year(p[2]);
    if (year < 0 || p[0].digits > 2 || p[1].digits > 2)
        return false;
    if (p[0].digits == 0) /* March 31, 2024 */
        return p[1].digits > 0 && write_date(out, year, p[0].value, p[1].value);
    if (p[1].digits == 0) /* 31 Mar 2024 */
        return write_date(out, year, p[1].value, p[0].value);

    char dmy[11], mdy[11];
    bool is_dmy = write_date(dmy, year, p[1].value, p[0].value);
    bool is_mdy = write_date(mdy, year, p[0].value, p[1].value);
    if (is_dmy && is_mdy && strcmp(dmy, mdy) != 0 && order == NRM_DATE_UNKNOWN)
        return false;
    if (is_dmy && (order == NRM_DATE_DMY || !is_mdy || strcmp(dmy, mdy) == 0)) {
        memcpy(out, dmy, 11);
        return true;
    }
    if (is_mdy)
        memcpy(out, mdy, 11);
    return is_mdy;
}

/* ---- amounts ---- */

/* A number with its separators, cut out of text. */
struct number {
    char digits[40]; /* digits, '.', ',' and ' ' for any kind of space or apostrophe */
    bool negative;
};

/* Length of a group separator that is no point or comma: space, apostrophe, U+00A0, U+2019, U+2009,
 * U+202F; 0 if s starts with none. */
static size_t group_space(const char *s)
{
    static const char *const spaces[] = {" ", "'", "\u00a0", "\u2019", "\u2009", "\u202f"};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        if (strncmp(s, spaces[i], strlen(spaces[i])) == 0)
            return strlen(spaces[i]);
    return 0;
}

/* Finds the one number of text. What stands around it may be letters, signs and brackets. */
static bool find_number(struct number *number, const char *s)
{
    static const char minus[] = "\u2212";
    size_t n = 0;
    const char *start = s;
    bool open = false, closes = false, seen = false;
    *number = (struct number){0};
    while (*s) {
        if (isdigit((unsigned char)*s)) {
            /* .50 is no 50; Rs.50 is */
            bool bare_point = s > start && (s[-1] == '.' || s[-1] == ',') &&
                              !(s > start + 1 && isalpha((unsigned char)s[-2]));
            if (seen || bare_point)
                return false;
            while (*s) {
                size_t space = group_space(s);
                if (space && isdigit((unsigned char)s[space])) {
                    number->digits[n++] = ' ';
                    s += space;
                } else if (isdigit((unsigned char)*s) ||
                           ((*s == '.' || *s == ',') && isdigit((unsigned char)s[1]))) {
                    number->digits[n++] = *s++;
                } else {
                    break;
                }
                if (n >= sizeof number->digits - 1)
                    return false;
            }
            seen = true;
        } else if (*s == '-' || strncmp(s, minus, sizeof minus - 1) == 0) {
            if (number->negative)
                return false;
            number->negative = true;
            s += *s == '-' ? 1 : sizeof minus - 1;
        } else if (*s == '(') {
            open = true;
            closes = !seen; /* (12.30) is negative, 12.30 (GST) is not */
            s++;
        } else if (*s == ')') {
            if (!open)
                return false;
            number->negative = number->negative || (closes && seen);
            s++;
        } else if (isalpha((unsigned char)*s) || (unsigned char)*s >= 0x80 ||
                   strchr(" $.,:*+", *s)) {
            s++;
        } else {
            return false;
        }
    }
    return seen;
}

/* Splits digits at the decimal mark and takes the group separators out; false where the groups are
 * not of three or the mark could be either. */
static bool split_number(char whole[40], char fraction[40], const char *digits, bool amount)
{
    const char *point = strrchr(digits, '.'), *comma = strrchr(digits, ',');
    const char *mark = point > comma ? point : comma;
    char group = ' ';
    if (point && comma) {
        group = point > comma ? ',' : '.';
    } else if (mark) {
        bool many = strchr(digits, *mark) != mark;
        bool three = strlen(mark + 1) == 3;
        if (amount && three && !many && !strchr(digits, ' ')) {
            /* 1,234 is a group, 1.234 may be either; 0,123 is neither */
            if (*mark == '.' || mark - digits > 3 || *digits == '0')
                return false;
            many = true;
        }
        if (many) {
            group = *mark;
            mark = NULL;
        }
    }
    size_t n = mark ? (size_t)(mark - digits) : strlen(digits);
    snprintf(fraction, 40, "%s", mark ? mark + 1 : "");
    size_t out = 0, run = 0;
    bool grouped = false;
    for (size_t i = 0; i < n; i++) {
        if (isdigit((unsigned char)digits[i])) {
            whole[out++] = digits[i];
            run++;
        } else {
            if (digits[i] != group || run == 0 || run > 3 || (grouped && run != 3))
                return false;
            grouped = true;
            run = 0;
        }
    }
    whole[out] = 0;
    return (!grouped || run == 3) && strspn(fraction, "0123456789") == strlen(fraction);
}

static const char *without_zeros(const char *digits)
{
    while (digits[0] == '0' && digits[1])
        digits++;
    return digits;
}

bool nrm_amount(char out[NRM_AMOUNT_SIZE], const char *text)
{
    struct number number;
    char whole[40], fraction[40];
    if (!find_number(&number, text) || !split_number(whole, fraction, number.digits, true))
        return false;
    const char *digits = without_zeros(whole);
    if (strlen(fraction) > 2 || strlen(digits) > 12)
        return false;
    snprintf(out, NRM_AMOUNT_SIZE, "%s%.12s.%c%c", number.negative ? "-" : "", digits,
             fraction[0] ? fraction[0] : '0', fraction[0] && fraction[1] ? fraction[1] : '0');
    return true;
}

int64_t nrm_amount_cents(const char *amount)
{
    int64_t cents = 0;
    for (const char *c = amount; *c; c++)
        if (isdigit((unsigned char)*c))
            cents = cents * 10 + (*c - '0');
    return *amount == '-' ? -cents : cents;
}

bool nrm_quantity(char out[NRM_AMOUNT_SIZE], const char *text)
{
    const char *s = text + strspn(text, " xX");
    size_t n = strspn(s, "0123456789.,");
    const char *rest = s + n;
    char digits[24], whole[40], fraction[40];
    if (n == 0 || n >= sizeof digits || !isdigit((unsigned char)*s) ||
        !isdigit((unsigned char)s[n - 1]) || rest[strspn(rest, " xX")] != 0)
        return false;
    snprintf(digits, sizeof digits, "%.*s", (int)n, s);
    if (!split_number(whole, fraction, digits, false) || strlen(whole) > 9 || strlen(fraction) > 6)
        return false;
    size_t keep = strlen(fraction);
    while (keep > 0 && fraction[keep - 1] == '0')
        keep--;
    fraction[keep] = 0;
    snprintf(out, NRM_AMOUNT_SIZE, "%.9s%s%.6s", without_zeros(whole), keep ? "." : "", fraction);
    return true;
}

void nrm_text(char *text)
{
    char *out = text;
    bool space = false;
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == 0x7f) {
            space = out > text;
        } else {
            if (space)
                *out++ = ' ';
            space = false;
            *out++ = *c;
        }
    }
    *out = 0;
}
