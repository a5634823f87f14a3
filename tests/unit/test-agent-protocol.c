/* SPDX-License-Identifier: MIT */
/* src/agent/protocol.h: frames and requests, whole, cut and damaged. */
#include "check.h"

#include "agent/protocol.h"

#include <string.h>

static const struct agent_frame reply = {.id = 0xfedcba98,
                                         .type = AGENT_READ,
                                         .flags = AGENT_WHOLE,
                                         .result = -5,
                                         .payload = "pay\0load",
                                         .bytes = 8};

static const struct agent_request request = {.id = 7,
                                             .type = AGENT_OPEN,
                                             .offset = UINT64_MAX - 1,
                                             .dev = 1ULL << 63,
                                             .identity = 0x0123456789abcdef,
                                             .handle = UINT32_MAX,
                                             .bytes = 65536,
                                             .flags = AGENT_WANT_FD,
                                             .whence = 3,
                                             .path = "a/b c"};

static void the_bytes_are_as_they_are_described(void **state)
{
    (void)state;
    struct buf out cleanup_buf;
    buf_init(&out, 1000);
    assert_int_equal(agent_frame_write(&out, &reply), 0);
    static const char expected[] = "\x08\0\0\0\x98\xba\xdc\xfe\7\0\4\0\xfb\xff\xff\xffpay\0load";
    assert_int_equal(out.len, sizeof(expected) - 1);
    assert_memory_equal(out.data, expected, sizeof(expected) - 1);
    buf_clear(&out);
    assert_int_equal(agent_request_write(&out, &request), 0);
    static const char asked[] = "\x2e\0\0\0\7\0\0\0\6\0\0\0\0\0\0\0"
                                "\xfe\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x80"
                                "\xef\xcd\xab\x89\x67\x45\x23\x01\xff\xff\xff\xff\0\0\1\0"
                                "\1\0\0\0\3\0\0\0a/b c";
    assert_int_equal(out.len, sizeof(asked));
    assert_memory_equal(out.data, asked, sizeof(asked));
}

static void frames_come_back_one_by_one(void **state)
{
    (void)state;
    struct buf out cleanup_buf;
    buf_init(&out, 1000);
    const struct agent_frame empty = {.id = 1, .type = AGENT_HELLO};
    assert_int_equal(agent_frame_write(&out, &reply), 0);
    assert_int_equal(agent_frame_write(&out, &empty), 0);
    size_t position = 0;
    struct agent_frame frame;
    assert_int_equal(agent_frame_read(out.data, out.len, &position, 8, &frame), 1);
    assert_int_equal(position, AGENT_FRAME_HEAD_BYTES + 8);
    assert_int_equal(frame.id, 0xfedcba98);
    assert_int_equal(frame.type, AGENT_READ);
    assert_int_equal(frame.flags, AGENT_WHOLE);
    assert_int_equal(frame.result, -5);
    assert_int_equal(frame.bytes, 8);
    assert_memory_equal(frame.payload, "pay\0load", 8);
    assert_int_equal(agent_frame_read(out.data, out.len, &position, 0, &frame), 1);
    assert_int_equal(frame.bytes, 0);
    assert_int_equal(agent_frame_read(out.data, out.len, &position, 8, &frame), 0);
}

static void a_frame_is_read_when_all_of_it_is_there(void **state)
{
    (void)state;
    struct buf out cleanup_buf;
    buf_init(&out, 1000);
    assert_int_equal(agent_frame_write(&out, &reply), 0);
    for (size_t len = 0; len < out.len; len++) {
        cleanup_free char *copy = malloc(len ? len : 1); /* the sanitizer knows its end */
        memcpy(copy, out.data, len);
        size_t position = 0;
        struct agent_frame frame;
        assert_int_equal(agent_frame_read(copy, len, &position, 8, &frame), 0);
        assert_int_equal(position, 0);
    }
}

static int read_frame(struct agent_frame frame, size_t max_bytes)
{
    char head[AGENT_FRAME_HEAD_BYTES];
    agent_frame_head(&frame, head);
    size_t position = 0;
    struct agent_frame ret;
    return agent_frame_read(head, sizeof(head), &position, max_bytes, &ret);
}

static void what_is_no_frame_is_known_by_its_head(void **state)
{
    (void)state;
    struct agent_frame frame = {.type = AGENT_STAT, .bytes = 100};
    assert_int_equal(read_frame(frame, 100), 0);
    assert_int_equal(read_frame(frame, 99), -EBADMSG);
    frame.bytes = UINT32_MAX;
    assert_int_equal(read_frame(frame, AGENT_MAX_REPLY_BYTES), -EBADMSG);
    frame.bytes = 0;
    static const uint16_t types[] = {0, AGENT_ROOT + 1, 256 + AGENT_STAT, UINT16_MAX};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        frame.type = types[i];
        assert_int_equal(read_frame(frame, 100), -EBADMSG);
    }
}

static void a_request_comes_back_as_it_was(void **state)
{
    (void)state;
    struct buf out cleanup_buf;
    buf_init(&out, 1000);
    assert_int_equal(agent_request_write(&out, &request), 0);
    size_t position = 0;
    struct agent_frame frame;
    struct agent_request ret;
    assert_int_equal(
        agent_frame_read(out.data, out.len, &position, AGENT_MAX_REQUEST_BYTES, &frame), 1);
    assert_int_equal(agent_request_read(&frame, &ret), 0);
    assert_int_equal(ret.id, request.id);
    assert_int_equal(ret.type, request.type);
    assert_true(ret.offset == request.offset && ret.dev == request.dev);
    assert_true(ret.identity == request.identity);
    assert_true(ret.handle == request.handle && ret.bytes == request.bytes);
    assert_true(ret.flags == request.flags && ret.whence == request.whence);
    assert_string_equal(ret.path, request.path);
}

/* agent_request_read of the request's payload, changed. */
static int read_request(uint16_t type, size_t bytes, char last, uint16_t flags, int32_t result)
{
    char payload[46] = {0};
    memset(payload + 40, 'p', 5);
    payload[45] = last;
    cleanup_free char *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, payload, bytes);
    const struct agent_frame frame = {
        .type = type, .flags = flags, .result = result, .payload = copy, .bytes = bytes};
    struct agent_request ret;
    return agent_request_read(&frame, &ret);
}

static void what_is_no_request_is_refused(void **state)
{
    (void)state;
    assert_int_equal(read_request(AGENT_STAT, 46, '\0', 0, 0), 0);
    assert_int_equal(read_request(AGENT_ROOT, 46, '\0', 0, 0), 0);
    assert_int_equal(read_request(AGENT_HELLO, 46, '\0', 0, 0), -EBADMSG);
    assert_int_equal(read_request(AGENT_ROOT + 1, 46, '\0', 0, 0), -EBADMSG);
    assert_int_equal(read_request(AGENT_STAT, 46, '\0', AGENT_END, 0), -EBADMSG);
    assert_int_equal(read_request(AGENT_STAT, 46, '\0', 0, -1), -EBADMSG);
    assert_int_equal(read_request(AGENT_STAT, 46, 'x', 0, 0), -EBADMSG);
    for (size_t bytes = 0; bytes < 46; bytes++)
        assert_int_equal(read_request(AGENT_STAT, bytes, '\0', 0, 0), -EBADMSG);
}

static void a_path_has_no_second_end(void **state)
{
    (void)state;
    char payload[44] = {0};
    payload[40] = 'a';
    payload[42] = 'b';
    const struct agent_frame frame = {.type = AGENT_STAT, .payload = payload, .bytes = 44};
    struct agent_request ret;
    assert_int_equal(agent_request_read(&frame, &ret), -EBADMSG);
}

static void what_does_not_fit_is_not_written(void **state)
{
    (void)state;
    struct buf out cleanup_buf;
    buf_init(&out, 20);
    assert_int_equal(buf_add(&out, "x", 1), 0);
    assert_int_equal(agent_frame_write(&out, &reply), -EMSGSIZE);
    assert_int_equal(out.len, 1);
    assert_int_equal(agent_request_write(&out, &request), -EMSGSIZE);
    assert_int_equal(out.len, 1);
    struct buf large cleanup_buf;
    buf_init(&large, (size_t)4 << 20);
    struct agent_request longest = {.type = AGENT_STAT};
    cleanup_free char *path = malloc(AGENT_MAX_REQUEST_BYTES);
    memset(path, 'p', AGENT_MAX_REQUEST_BYTES);
    longest.path = path;
    path[AGENT_MAX_REQUEST_BYTES - 40] = '\0';
    assert_int_equal(agent_request_write(&large, &longest), -EMSGSIZE);
    assert_int_equal(large.len, 0);
    path[AGENT_MAX_REQUEST_BYTES - 41] = '\0';
    assert_int_equal(agent_request_write(&large, &longest), 0);
    size_t position = 0;
    struct agent_frame frame;
    assert_int_equal(
        agent_frame_read(large.data, large.len, &position, AGENT_MAX_REQUEST_BYTES, &frame), 1);
    assert_int_equal(agent_request_read(&frame, &longest), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_are_as_they_are_described),
        cmocka_unit_test(frames_come_back_one_by_one),
        cmocka_unit_test(a_frame_is_read_when_all_of_it_is_there),
        cmocka_unit_test(what_is_no_frame_is_known_by_its_head),
        cmocka_unit_test(a_request_comes_back_as_it_was),
        cmocka_unit_test(what_is_no_request_is_refused),
        cmocka_unit_test(a_path_has_no_second_end),
        cmocka_unit_test(what_does_not_fit_is_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
