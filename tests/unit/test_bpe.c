/* test_bpe.c - tokenizer/: ids equal to HF tokenizers and tiktoken, decoding equal to Python's. */
#include "golden_lines.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct bpe *open_bpe(const char *path)
{
    struct bpe *bpe;
    struct mll_error err;
    cr_assert(bpe_open(&bpe, path, &err) == MLL_OK, "%s", err.message);
    return bpe;
}

static struct bpe_ids encode(const struct bpe *bpe, const char *text, size_t size, bool special)
{
    struct bpe_ids ids = {0};
    struct mll_error err;
    cr_assert(bpe_encode(bpe, &ids, text, size, special, &err) == MLL_OK, "%s", err.message);
    return ids;
}

/* Every line of strings.jsonl, its ids under key (ids where the line has no such key). */
static void check_strings(const char *path, const char *key, bool special)
{
    struct bpe *bpe = open_bpe(path);
    FILE *f = golden_open(GOLDEN("tokenizer/strings.jsonl"));
    size_t n = 0;
    for (json_t *line; (line = golden_next(f)); n++, json_decref(line)) {
        const json_t *text = json_object_get(line, "text"), *expected = json_object_get(line, key);
        struct bpe_ids ids =
            encode(bpe, json_string_value(text), json_string_length(text), special);
        cr_expect(golden_ids_equal(&ids, expected ? expected : json_object_get(line, "ids")),
                  "%s, line %zu", path, n + 2);
        bpe_ids_free(&ids);
    }
    cr_expect(n == 700);
    fclose(f);
    bpe_close(bpe);
}

Test(bpe, tokenizer_json_gives_the_ids_of_tokenizers)
{
    check_strings(GOLDEN("tokenizer/small"), "ids", true);
}

Test(bpe, tokenizer_model_gives_the_ids_of_tiktoken)
{
    check_strings(GOLDEN("tokenizer/small/tokenizer.model"), "ids", true);
}

Test(bpe, special_tokens_are_text_where_not_asked_for)
{
    check_strings(GOLDEN("tokenizer/small/tokenizer.json"), "plain", false);
    check_strings(GOLDEN("tokenizer/small/tokenizer.model"), "plain", false);
}

Test(bpe, merges_as_a_trainer_leaves_them_without_ignore_merges)
{
    check_strings(GOLDEN("tokenizer/trained.json"), "trained", true);
}

/* ---- the merge loop against its definition ---- */

#define ALPHABET 2
#define N_MERGES 40

/* Random merges over two letters: several may make one token, ranks do not follow length. */
struct toy {
    int n;
    char text[ALPHABET + N_MERGES][64];
    int left[N_MERGES], right[N_MERGES], result[N_MERGES]; /* by rank */
};

static int toy_find(const struct toy *t, const char *text)
{
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->text[i], text) == 0)
            return i;
    return -1;
}

static void toy_make(struct toy *t)
{
    t->n = ALPHABET;
    for (int i = 0; i < ALPHABET; i++)
        snprintf(t->text[i], sizeof t->text[i], "%c", 'a' + i);
    for (int n = 0; n < N_MERGES;) {
        int a = rand() % t->n, b = rand() % t->n;
        char text[128];
        snprintf(text, sizeof text, "%s%s", t->text[a], t->text[b]);
        bool known = false;
        for (int i = 0; i < n; i++)
            known |= t->left[i] == a && t->right[i] == b;
        if (known || strlen(text) > 8)
            continue;
        int result = toy_find(t, text), at = rand() % (n + 1);
        if (result < 0) {
            result = t->n++;
            strcpy(t->text[result], text);
        }
        for (int i = n++; i > at; i--) {
            t->left[i] = t->left[i - 1];
            t->right[i] = t->right[i - 1];
            t->result[i] = t->result[i - 1];
        }
        t->left[at] = a;
        t->right[at] = b;
        t->result[at] = result;
    }
}

/* A tokenizer.json of the toy; its letters have ids 0 and 1, all other bytes follow. */
static struct bpe *toy_open(const struct toy *t)
{
    json_error_t error;
    json_t *root = json_load_file(GOLDEN("tokenizer/trained.json"), 0, &error);
    json_t *model = json_object_get(root, "model"), *old = json_object_get(model, "vocab");
    json_t *vocab = json_object(), *merges = json_array();
    for (int i = 0; i < t->n; i++)
        json_object_set_new(vocab, t->text[i], json_integer(i));
    const char *key;
    json_t *id;
    json_object_foreach(old, key, id) if (json_integer_value(id) < 256 && toy_find(t, key) < 0)
        json_object_set_new(vocab, key, json_integer((json_int_t)json_object_size(vocab)));
    for (int i = 0; i < N_MERGES; i++)
        json_array_append_new(merges,
                              json_pack("[s,s]", t->text[t->left[i]], t->text[t->right[i]]));
    json_object_set_new(model, "vocab", vocab);
    json_object_set_new(model, "merges", merges);
    json_object_set_new(root, "added_tokens", json_array());
    json_object_set_new(root, "post_processor", json_null());
    char path[] = "/tmp/test_bpe_XXXXXX";
    close(mkstemp(path));
    json_dump_file(root, path, 0);
    json_decref(root);
    struct bpe *bpe = open_bpe(path);
    unlink(path);
    return bpe;
}

static size_t toy_encode(const struct toy *t, int *ids, const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        ids[i] = text[i] - 'a';
    for (int rank = 0; rank < N_MERGES;) {
        size_t i = 0;
        while (i + 1 < n && !(ids[i] == t->left[rank] && ids[i + 1] == t->right[rank]))
            i++;
        if (i + 1 >= n) {
            rank++;
            continue;
        }
        ids[i] = t->result[rank];
        memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
        n--;
        rank = 0;
    }
    return n;
}

Test(bpe, short_and_long_pieces_merge_as_the_definition_says)
{
    srand(4);
    for (int round = 0; round < 200; round++) {
        struct toy toy;
        toy_make(&toy);
        struct bpe *bpe = toy_open(&toy);
        for (int size = 1; size < 600; size = size * 3 / 2 + 1) {
            char text[1000];
            int expected[1000], letters = 1 + rand() % ALPHABET;
            for (int i = 0; i < size; i++)
                text[i] = (char)('a' + rand() % letters);
            text[size] = 0;
            struct bpe_ids ids = encode(bpe, text, (size_t)size, true);
            size_t n = toy_encode(&toy, expected, text);
            cr_assert(n == ids.n && memcmp(expected, ids.data, n * sizeof *expected) == 0,
                      "round %d, '%s'", round, text);
            bpe_ids_free(&ids);
        }
        bpe_close(bpe);
    }
}

/* tiktoken: a pair's rank is that of the token which it spells. tokens[r] has rank 256 + r. */
static size_t spelled_encode(char symbols[][16], char tokens[][8], int n_tokens, const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        snprintf(symbols[i], sizeof symbols[i], "%c", text[i]);
    for (int rank = 0; rank < n_tokens;) {
        size_t i = 0;
        char both[2 * 16];
        for (; i + 1 < n; i++) {
            strcat(strcpy(both, symbols[i]), symbols[i + 1]);
            if (strcmp(both, tokens[rank]) == 0)
                break;
        }
        if (i + 1 >= n) {
            rank++;
            continue;
        }
        strcpy(symbols[i], both);
        memmove(symbols[i + 1], symbols[i + 2], (n - i - 2) * sizeof *symbols);
        n--;
        rank = 0;
    }
    return n;
}

static void write_base64(FILE *f, const char *text, int rank)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t size = rank < 256 ? 1 : strlen(text);
    for (size_t i = 0; i < size; i += 3) {
        uint32_t quad = 0;
        for (size_t k = 0; k < 3; k++)
            quad = quad << 8 | (i + k < size ? (uint8_t)text[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            fputc(i + k <= size ? digits[quad >> (18 - 6 * k) & 63] : '=', f);
    }
    fprintf(f, " %d\n", rank);
}

Test(bpe, pairs_that_spell_one_token_merge_from_the_left)
{
    srand(5);
    for (int round = 0; round < 100; round++) {
        char tokens[20][8], path[] = "/tmp/test_bpe_XXXXXX";
        int n = 0;
        while (n < 20) {
            int size = 2 + rand() % 4;
            for (int i = 0; i < size; i++)
                tokens[n][i] = (char)('a' + rand() % 2);
            tokens[n][size] = 0;
            int same = 0;
            while (strcmp(tokens[same], tokens[n]) != 0)
                same++;
            n += same == n;
        }
        FILE *f = fdopen(mkstemp(path), "w");
        for (int rank = 0; rank < 256 + n; rank++)
            write_base64(f, rank < 256 ? &(char){(char)rank} : tokens[rank - 256], rank);
        fclose(f);
        struct bpe *bpe = open_bpe(path);
        unlink(path);
        for (int size = 6; size < 400; size *= 2) {
            char text[500], symbols[500][16];
            for (int i = 0; i < size; i++)
                text[i] = (char)('a' + rand() % 2);
            text[size] = 0;
            struct bpe_ids ids = encode(bpe, text, (size_t)size, true);
            size_t expected = spelled_encode(symbols, tokens, n, text), i = 0, width;
            for (; i < ids.n && i < expected; i++) {
                const char *bytes = bpe_token_bytes(bpe, ids.data[i], &width);
                if (width != strlen(symbols[i]) || memcmp(bytes, symbols[i], width) != 0)
                    break;
            }
            cr_assert(i == ids.n && i == expected, "round %d, symbol %zu of '%s'", round, i, text);
            bpe_ids_free(&ids);
        }
        bpe_close(bpe);
    }
}

Test(bpe, a_megabyte_of_one_thing_takes_near_linear_time, .timeout = 300)
{
    static const char *const units[] = {" ",  "a",   "7", "ab", "\n", "=", "\xe4\xb8\x80",
                                        "<|", "\xff"};
    struct bpe *bpe = open_bpe(GOLDEN("tokenizer/small"));
    size_t size = 1000000;
    char *text = malloc(size);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t width = strlen(units[u]);
        for (size_t i = 0; i < size; i++)
            text[i] = units[u][i % width];
        struct timespec a, b;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
        struct bpe_ids ids = encode(bpe, text, size, true);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
        double seconds = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
        cr_expect(seconds < 20, "'%s': %.1f s", units[u], seconds);
        bpe_ids_free(&ids);
    }
    free(text);
    bpe_close(bpe);
}

/* ---- the rest of the interface ---- */

Test(bpe, special_tokens_are_found_by_text_and_by_id)
{
    struct bpe *bpe = open_bpe(GOLDEN("tokenizer/small/tokenizer.model"));
    size_t size;
    cr_expect(bpe_size(bpe) == 900 + 257);
    cr_expect(bpe_special_id(bpe, "<|begin_of_text|>") == 900);
    cr_expect(bpe_special_id(bpe, "<|reserved_special_token_2|>") == 911);
    cr_expect(bpe_special_id(bpe, "<|image|>") == 1156);
    cr_expect(bpe_special_id(bpe, "<|image") == -1 && bpe_special_id(bpe, "") == -1);
    cr_expect(bpe_special_id(bpe, "<|image|>x") == -1);
    cr_expect(strncmp(bpe_token_bytes(bpe, 909, &size), "<|eot_id|>", 10) == 0 && size == 10);
    cr_expect(bpe_token_bytes(bpe, -1, &size) == NULL && size == 0);
    cr_expect(bpe_token_bytes(bpe, 1157, &size) == NULL);
    cr_expect(bpe_is_special(bpe, 900) && !bpe_is_special(bpe, 899));
    cr_expect(!bpe_is_special(bpe, -1) && !bpe_is_special(bpe, 1157));
    bpe_close(bpe);
}

Test(bpe, post_processor_puts_bos_first)
{
    static const char *const paths[] = {GOLDEN("tokenizer/small/tokenizer.json"),
                                        GOLDEN("tokenizer/small/tokenizer.model")};
    for (int i = 0; i < 2; i++) {
        struct bpe *bpe = open_bpe(paths[i]);
        struct bpe_ids ids = encode(bpe, "ab", 2, true), empty = {0};
        size_t n = ids.n;
        int32_t first = ids.data[0];
        cr_assert(bpe_add_post_processor(bpe, &ids, NULL) == MLL_OK);
        cr_expect(ids.n == n + 1 && ids.data[0] == 900 && ids.data[1] == first);
        cr_assert(bpe_add_post_processor(bpe, &empty, NULL) == MLL_OK);
        cr_expect(empty.n == 1 && empty.data[0] == 900);
        bpe_ids_free(&ids);
        bpe_ids_free(&empty);
        bpe_close(bpe);
    }
}

Test(bpe, any_bytes_come_back_from_their_ids)
{
    struct bpe *bpe = open_bpe(GOLDEN("tokenizer/small"));
    srand(1);
    for (int round = 0; round < 2000; round++) {
        char text[64], back[64];
        size_t size = (size_t)(rand() % 64), n = 0;
        for (size_t i = 0; i < size; i++)
            text[i] = (char)(rand() % 3 ? rand() : "\xe0\xa0\xf0\x90\xed'se r\n"[rand() % 11]);
        struct bpe_ids ids = encode(bpe, text, size, true);
        for (size_t i = 0; i < ids.n; i++) {
            size_t width;
            const char *bytes = bpe_token_bytes(bpe, ids.data[i], &width);
            memcpy(back + n, bytes, width);
            n += width;
        }
        cr_expect(n == size && memcmp(back, text, n) == 0, "round %d", round);
        bpe_ids_free(&ids);
    }
    bpe_close(bpe);
}

/* What bytes.decode("utf-8", "replace") gives; R is U+FFFD. */
#define R "\xEF\xBF\xBD"
static const struct {
    const char *bytes, *text;
} broken[] = {
    {"abc", "abc"},
    {"\xc3\xa9\xe4\xb8\x80\xf0\x9f\x98\x80", "\xc3\xa9\xe4\xb8\x80\xf0\x9f\x98\x80"},
    {"\xff", R},
    {"\x80\x80", R R},
    {"\xc0\xaf", R R},
    {"\xe0\x80\xaf", R R R},
    {"\xed\xa0\x80", R R R},
    {"\xf4\x90\x80\x80", R R R R},
    {"\xf0\x9f\x98", R},
    {"\xf0\x9f\x98"
     "a",
     R "a"},
    {"\xf0\x9f\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
    {"\xe4\xb8\xc3\xa9", R "\xc3\xa9"},
    {"\xc3\xc3\xa9", R "\xc3\xa9"},
    {"\xe4\xb8", R},
    {"x\xc3", "x" R},
    {"\xf1\x80\x80\xe1\x80\xc2"
     "b",
     R R R "b"},
};

Test(bpe, a_stream_gives_whole_utf8_however_it_is_cut)
{
    for (size_t c = 0; c < sizeof broken / sizeof *broken; c++) {
        size_t size = strlen(broken[c].bytes);
        for (size_t cut = 1; cut <= size; cut++) {
            struct bpe_stream stream = {0};
            char out[256];
            size_t n = 0;
            for (size_t at = 0; at < size; at += cut) {
                size_t width = size - at < cut ? size - at : cut;
                n += bpe_stream_push(&stream, out + n, broken[c].bytes + at, width);
            }
            n += bpe_stream_finish(&stream, out + n);
            cr_expect(n == strlen(broken[c].text) && memcmp(out, broken[c].text, n) == 0,
                      "case %zu in pieces of %zu: '%.*s'", c, cut, (int)n, out);
        }
    }
}
