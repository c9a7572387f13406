/* test_jsonout.c - the JSON writer: escapes, numbers, commas; and SHA-256 beside it. */
#include "jsonout.h"
#include "sha256.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void expect(const struct jw *w, const char *want)
{
    cr_assert_not(w->failed);
    cr_expect_eq(w->n, strlen(want));
    cr_expect(w->n == strlen(want) && memcmp(w->data, want, w->n) == 0, "%.*s instead of %s",
              (int)w->n, w->data, want);
}

Test(jsonout, members_and_elements_are_separated)
{
    struct jw w = {0};
    jw_object(&w, NULL);
    jw_array(&w, "a");
    jw_int(&w, NULL, -1);
    jw_object(&w, NULL);
    jw_end(&w, '}');
    jw_end(&w, ']');
    jw_real(&w, "b", 0.12345, 3);
    jw_real(&w, "c", NAN, 3);
    jw_bool(&w, "d", true);
    jw_null(&w, "e");
    jw_hash(&w, "f", 0xabcull);
    jw_string(&w, "g", NULL);
    jw_end(&w, '}');
    jw_newline(&w);
    expect(&w, "{\"a\":[-1,{}],\"b\":0.123,\"c\":null,\"d\":true,\"e\":null,"
               "\"f\":\"0000000000000abc\",\"g\":null}\n");
    jw_free(&w);
}

Test(jsonout, strings_are_ascii_and_repaired)
{
    struct jw w = {0};
    jw_string_n(&w, NULL, "q\"\\\n\t\0\x7f\u00e9\u20ac\U0001f600", 16);
    expect(&w, "\"q\\\"\\\\\\n\\u0009\\u0000\\u007f\\u00e9\\u20ac\\ud83d\\ude00\"");
    jw_free(&w);
    /* a lone continuation, an overlong slash, a surrogate, a cut sequence, beyond Unicode */
    jw_string(&w, NULL, "\x80|\xc0\xaf|\xed\xa0\x80|\xe2\x82|\xf4\x90\x80\x80");
    expect(&w, "\"\\ufffd|\\ufffd\\ufffd|\\ufffd\\ufffd\\ufffd|\\ufffd\\ufffd|"
               "\\ufffd\\ufffd\\ufffd\\ufffd\"");
    jw_free(&w);
}

Test(jsonout, base64_pads)
{
    static const char *const want[] = {"\"\"", "\"Zg==\"", "\"Zm8=\"", "\"Zm9v\"", "\"Zm9vYg==\""};
    for (size_t n = 0; n < 5; n++) {
        struct jw w = {0};
        jw_base64(&w, NULL, "foob", n);
        expect(&w, want[n]);
        jw_free(&w);
    }
}

/* FIPS 180-4 examples, and lengths around the padding's border against sha256sum. */
Test(sha256, known_answers)
{
    char hex[65];
    sha256_hex(hex, "", 0);
    cr_expect_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_hex(hex, "abc", 3);
    cr_expect_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    static const char two[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    sha256_hex(hex, two, 56);
    cr_expect_str_eq(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *million = malloc(1000000);
    cr_assert_not_null(million);
    memset(million, 'a', 1000000);
    sha256_hex(hex, million, 1000000);
    cr_expect_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    sha256_hex(hex, million, 55);
    cr_expect_str_eq(hex, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
    sha256_hex(hex, million, 64);
    cr_expect_str_eq(hex, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
    free(million);
}
