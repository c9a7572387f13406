/* test_3_prompt.c - stage 3: requests to ids, equal to transformers' rendering of the templates. */
#include "chat.h"
#include "golden_lines.h"
#include "prompt.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE 1156 /* <|image|> of the small vocabulary */

/* A model directory of a tokenizer and, unless NULL, one file that may hold a chat template. */
struct model {
    char dir[64];
    char file[128];
    struct bpe *bpe;
    struct prompt *prompt;
    char logged[512];
};

static void keep_line(void *user, const char *line)
{
    struct model *m = user;
    snprintf(m->logged, sizeof m->logged, "%s", line);
}

static void open_model(struct model *m, const char *name, const char *content)
{
    struct mll_error err = {0};
    *m = (struct model){.dir = "/tmp/test_prompt_XXXXXX"};
    cr_assert(mkdtemp(m->dir));
    if (name) {
        snprintf(m->file, sizeof m->file, "%s/%s", m->dir, name);
        FILE *f = fopen(m->file, "w");
        fputs(content, f);
        fclose(f);
    }
    cr_assert(bpe_open(&m->bpe, GOLDEN("tokenizer/small"), &err) == MLL_OK, "%s", err.message);
    struct prompt_log log = {keep_line, m};
    cr_assert(prompt_open(&m->prompt, m->dir, m->bpe, IMAGE, log, &err) == MLL_OK, "%s",
              err.message);
}

static void close_model(struct model *m)
{
    prompt_close(m->prompt);
    bpe_close(m->bpe);
    unlink(m->file);
    rmdir(m->dir);
}

static char *read_plain_template(void)
{
    static char text[4096];
    FILE *f = fopen(MLL_SOURCE_DIR "/models/receipts-tiny/chat_template.jinja", "r");
    cr_assert(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

/* The request's ids must be those of the whole prompt expected, special tokens parsed. */
static void check_prompt(const struct model *m, const struct mll_request *request,
                         const char *expected)
{
    struct bpe_ids ids = {0}, wanted = {0};
    struct mll_error err = {0};
    cr_expect(prompt_build(m->prompt, &ids, request, &err) == MLL_OK, "%s", err.message);
    cr_assert(bpe_encode(m->bpe, &wanted, expected, strlen(expected), true, &err) == MLL_OK);
    cr_expect(ids.n == wanted.n && memcmp(ids.data, wanted.data, ids.n * sizeof *ids.data) == 0,
              "%s", expected);
    bpe_ids_free(&ids);
    bpe_ids_free(&wanted);
}

static void check_case(const struct model *m, json_t *line, size_t number)
{
    struct chat chat;
    struct bpe_ids ids = {0};
    struct mll_error err = {0};
    char *text = json_dumps(line, 0);
    cr_assert(chat_parse(&chat, text, strlen(text), "case", &err) == MLL_OK, "%s", err.message);
    struct mll_request request = {.messages = chat.messages,
                                  .n_messages = chat.n_messages,
                                  .n_images = chat.n_images,
                                  .date_string = chat.date_string};
    cr_expect(prompt_build(m->prompt, &ids, &request, &err) == MLL_OK, "%s", err.message);
    cr_expect(golden_ids_equal(&ids, json_object_get(line, "ids")), "line %zu: %s", number,
              json_string_value(json_object_get(line, "rendered")));
    bpe_ids_free(&ids);
    chat_free(&chat);
    free(text);
}

Test(stage_3_prompt, conversations_are_rendered_as_transformers_does)
{
    struct model llama, plain;
    open_model(&llama, "chat_template.jinja", "any");
    open_model(&plain, "chat_template.jinja", read_plain_template());
    FILE *f = golden_open(GOLDEN("prompt/cases.jsonl"));
    size_t n = 0;
    for (json_t *line; (line = golden_next(f)); n++, json_decref(line)) {
        const char *template = json_string_value(json_object_get(line, "template"));
        check_case(strcmp(template, "llama") == 0 ? &llama : &plain, line, n + 2);
    }
    cr_expect(n == 160);
    fclose(f);
    close_model(&llama);
    close_model(&plain);
}

Test(stage_3_prompt, a_question_is_one_user_message_behind_the_images)
{
    struct model m;
    open_model(&m, "chat_template.jinja", "any");
    check_prompt(&m, &(struct mll_request){.text = "What is it?", .n_images = 2},
                 "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|><|image|>"
                 "What is it?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
    check_prompt(&m, &(struct mll_request){.text = "\nHi ", .date_string = "2 Feb 2020"},
                 "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
                 "Cutting Knowledge Date: December 2023\nToday Date: 2 Feb 2020\n\n<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\n\nHi <|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\n");
    close_model(&m);
}

Test(stage_3_prompt, a_system_message_in_parts_is_joined_and_stripped)
{
    struct model m;
    open_model(&m, "chat_template.jinja", "any");
    static const char first[] = " \n\x1c"
                                "Be ",
                      second[] = "brief.\xe2\x80\x83\n";
    const struct mll_part system[] = {{first, sizeof first - 1}, {second, sizeof second - 1}};
    const struct mll_part user[] = {{NULL, 0}};
    const struct mll_message messages[] = {{MLL_ROLE_SYSTEM, system, 2}, {MLL_ROLE_USER, user, 1}};
    check_prompt(&m, &(struct mll_request){.messages = messages, .n_messages = 2, .n_images = 1},
                 "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
                 "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nBe brief."
                 "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<|image|><|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\n");
    close_model(&m);
}

Test(stage_3_prompt, without_a_template_a_question_is_completed_in_three_forms)
{
    struct model m;
    open_model(&m, NULL, NULL);
    cr_expect(!prompt_has_template(m.prompt));
    struct mll_request request = {.text = "The total is", .n_images = 1};
    check_prompt(&m, &request, "<|begin_of_text|><|image|>The total is");
    request.form = MLL_FORM_CARD;
    check_prompt(&m, &request, "<|image|><|begin_of_text|>The total is");
    request.form = MLL_FORM_HF;
    check_prompt(&m, &request, "<|begin_of_text|><|image|><|begin_of_text|>The total is");
    close_model(&m);
}

Test(stage_3_prompt, special_tokens_in_a_users_text_are_text)
{
    struct model m;
    struct bpe_ids ids = {0};
    open_model(&m, "chat_template.jinja", "any");
    struct mll_request request = {.text = "<|image|><|eot_id|><|start_header_id|>", .n_images = 1};
    cr_assert(prompt_build(m.prompt, &ids, &request, NULL) == MLL_OK);
    int images = 0, ends = 0;
    for (size_t i = 0; i < ids.n; i++) {
        images += ids.data[i] == IMAGE;
        ends += ids.data[i] == bpe_special_id(m.bpe, "<|eot_id|>");
    }
    cr_expect(images == 1 && ends == 1);
    bpe_ids_free(&ids);
    close_model(&m);
}

Test(stage_3_prompt, a_raw_prompt_is_all_there_is)
{
    struct model m;
    open_model(&m, "chat_template.jinja", "any");
    const char *raw = "<|image|>text <|eot_id|>";
    struct mll_request request = {.raw = raw, .raw_size = strlen(raw), .n_images = 1};
    check_prompt(&m, &request, raw);
    request.add_special_tokens = true;
    check_prompt(&m, &request, "<|begin_of_text|><|image|>text <|eot_id|>");
    close_model(&m);
}

/* The request must be refused with code, the message holding expected. */
static void check_refused(const struct model *m, const struct mll_request *request,
                          enum mll_status code, const char *expected)
{
    struct bpe_ids ids = {0};
    struct mll_error err = {0};
    cr_expect(prompt_build(m->prompt, &ids, request, &err) == code, "%s", err.message);
    cr_expect(strstr(err.message, expected), "'%s' not in: %s", expected, err.message);
    bpe_ids_free(&ids);
}

Test(stage_3_prompt, what_cannot_be_a_prompt_is_refused)
{
    struct model m, base;
    open_model(&m, "chat_template.jinja", "any");
    open_model(&base, NULL, NULL);
    const struct mll_part image = {NULL, 0};
    const struct mll_message user = {MLL_ROLE_USER, &image, 1},
                             system = {MLL_ROLE_SYSTEM, &image, 1};
    check_refused(&m, &(struct mll_request){.raw = "<|image|>", .raw_size = 9}, MLL_ERR_IMAGE_COUNT,
                  "1 image tokens, the request 0 images");
    check_refused(&m, &(struct mll_request){.messages = &user, .n_messages = 1, .n_images = 3},
                  MLL_ERR_IMAGE_COUNT, "1 image tokens, the request 3 images");
    check_refused(&m, &(struct mll_request){.messages = &system, .n_messages = 1, .n_images = 1},
                  MLL_ERR_CHAT, "system message");
    check_refused(&m, &(struct mll_request){.n_images = 1}, MLL_ERR_CHAT, "no text");
    check_refused(&base, &(struct mll_request){.messages = &user, .n_messages = 1, .n_images = 1},
                  MLL_ERR_CHAT, "no chat template");
    close_model(&m);
    close_model(&base);
}

Test(stage_3_prompt, a_template_is_found_in_three_files)
{
    static const char *const with[][2] = {
        {"chat_template.jinja", ""},
        {"chat_template.json", "{\"chat_template\": \"x\"}"},
        {"tokenizer_config.json", "{\"a\": 1, \"chat_template\": \"x\"}"},
        {"tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"y\"},"
                                  " {\"name\": \"default\", \"template\": \"x\"}]}"}};
    static const char *const without[] = {"{}", "{\"chat_template\": null}",
                                          "{\"chat_template\": [{\"name\": \"rag\"}]}"};
    struct model m;
    for (size_t i = 0; i < sizeof with / sizeof *with; i++) {
        open_model(&m, with[i][0], with[i][1]);
        cr_expect(prompt_has_template(m.prompt), "%zu", i);
        cr_expect(strstr(m.logged, "unknown chat template"), "%zu: '%s'", i, m.logged);
        close_model(&m);
    }
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        open_model(&m, "tokenizer_config.json", without[i]);
        cr_expect(!prompt_has_template(m.prompt), "%zu", i);
        close_model(&m);
    }
    open_model(&m, "chat_template.jinja", read_plain_template());
    cr_expect(prompt_has_template(m.prompt) && !*m.logged, "%s", m.logged);
    close_model(&m);
}

Test(stage_3_prompt, an_image_token_unlike_the_configurations_is_refused)
{
    struct bpe *bpe;
    struct prompt *prompt;
    struct mll_error err;
    cr_assert(bpe_open(&bpe, GOLDEN("tokenizer/small"), &err) == MLL_OK);
    cr_expect(prompt_open(&prompt, "/", bpe, 5, (struct prompt_log){0}, &err) ==
              MLL_ERR_IMAGE_TOKEN_TOKENIZER);
    cr_expect(strstr(err.message, "is 5 in config.json") && strstr(err.message, "is 1156"), "%s",
              err.message);
    bpe_close(bpe);
}
