/* test_chat.c - engine/chat: conversations in JSON, and every way in which they are refused. */
#include "chat.h"

#include <criterion/criterion.h>
#include <string.h>

static void parse(struct chat *chat, const char *text)
{
    struct mll_error err = {0};
    cr_assert(chat_parse(chat, text, strlen(text), "x.json", &err) == MLL_OK, "%s", err.message);
}

Test(chat, content_is_a_string_or_parts)
{
    struct chat chat;
    parse(&chat, "{\"messages\": [{\"role\": \"system\", \"content\": \"Be\\u0000brief\"},"
                 "{\"role\": \"user\", \"content\": [{\"type\": \"image\"},"
                 "{\"type\": \"text\", \"text\": \"What?\"}]},"
                 "{\"role\": \"assistant\", \"content\": []}], \"date_string\": \"1 May 2025\"}");
    cr_assert(chat.n_messages == 3 && chat.n_images == 1);
    cr_expect(chat.messages[0].role == MLL_ROLE_SYSTEM && chat.messages[0].n_parts == 1);
    cr_expect(chat.messages[0].parts[0].size == 8);
    cr_expect(chat.messages[1].role == MLL_ROLE_USER && chat.messages[1].n_parts == 2);
    cr_expect(chat.messages[1].parts[0].text == NULL);
    cr_expect_str_eq(chat.messages[1].parts[1].text, "What?");
    cr_expect(chat.messages[2].role == MLL_ROLE_ASSISTANT && chat.messages[2].n_parts == 0);
    cr_expect_str_eq(chat.date_string, "1 May 2025");
    cr_expect(chat.images[0].path == NULL && chat.images[0].bytes == NULL);
    chat_free(&chat);
    cr_expect(chat.messages == NULL);
    chat_free(&chat);
}

Test(chat, images_are_placeholders_files_or_data)
{
    struct chat chat;
    parse(&chat,
          "{\"messages\": [{\"role\": \"user\", \"content\": ["
          "{\"type\": \"image\"}, {\"type\": \"image\", \"path\": \"a.png\"},"
          "{\"type\": \"image\", \"url\": \"b/c.jpg\"}, {\"type\": \"image\", \"image\": \"d\"},"
          "{\"type\": \"image_url\", \"image_url\": {\"url\": \"e.png\"}},"
          "{\"type\": \"image_url\", \"image_url\": \"f.png\"},"
          "{\"type\": \"image_url\", \"image_url\": {\"url\":"
          " \"data:image/png;base64,iVBORw==\"}}]}]}");
    static const char *const paths[] = {NULL, "a.png", "b/c.jpg", "d", "e.png", "f.png", NULL};
    cr_assert(chat.n_images == 7);
    for (int i = 0; i < 7; i++)
        cr_expect(paths[i] ? chat.images[i].path && strcmp(paths[i], chat.images[i].path) == 0
                           : !chat.images[i].path,
                  "image %d", i);
    cr_expect(chat.images[6].size == 4 && memcmp(chat.images[6].bytes, "\x89PNG", 4) == 0);
    cr_expect(chat.date_string == NULL);
    chat_free(&chat);
}

static const struct {
    const char *text, *expected;
} refused[] = {
    {"", "x.json: line 1, column 0: not JSON"},
    {"{\"messages\": [}", "not JSON"},
    {"{\"messages\": [], \"messages\": []}", "not JSON"},
    {"[]", "'messages'"},
    {"{}", "'messages'"},
    {"{\"messages\": []}", "not empty"},
    {"{\"messages\": {\"role\": \"user\"}}", "'messages'"},
    {"{\"messages\": [5]}", "x.json: messages[0]: a message is an object"},
    {"{\"messages\": [{\"content\": \"\"}]}", "'role'"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": \"\"}, {\"role\": \"tool\"}]}",
     "messages[1]: role 'tool'"},
    {"{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": []}]}", "tool calls"},
    {"{\"messages\": [{\"role\": \"user\"}]}", "'content' is neither"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": null}]}", "'content' is neither"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [\"x\"]}]}", "content[0]: a part is"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}, {\"type\": "
     "\"video\"}]}]}",
     "messages[0].content[1]: type 'video'"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]}",
     "no string 'text'"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}", "source"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"path\": \"\"}]}]}",
     "source"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"path\": "
     "\"a\\u0000b\"}]}]}",
     "source"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"url\": "
     "\"https://a/b\"}]}]}",
     "'https://a/b': only files"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"url\": "
     "\"data:image/png,x\"}]}]}",
     ";base64,"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"url\": "
     "\"data:;base64,\"}]}]}",
     "empty"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"},"
     " {\"type\": \"image\", \"url\": \"data:;base64,AAAA\"},"
     " {\"type\": \"image\", \"url\": \"data:;base64,A?==\"}]}]}",
     "content[2]: a data: URL whose base64 is malformed"},
    {"{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"date_string\": 5}",
     "'date_string'"},
};

Test(chat, what_is_no_conversation_is_refused_with_its_place)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct chat chat;
        struct mll_error err = {0};
        enum mll_status status =
            chat_parse(&chat, refused[i].text, strlen(refused[i].text), "x.json", &err);
        cr_expect(status == MLL_ERR_CHAT, "%s", refused[i].text);
        cr_expect(strstr(err.message, refused[i].expected), "'%s' not in: %s", refused[i].expected,
                  err.message);
        cr_expect(chat.messages == NULL && chat.images == NULL);
    }
}
