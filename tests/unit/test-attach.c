/* SPDX-License-Identifier: MIT */
/* src/engine/attach.h: what an attach stream is made of. */
#include "check.h"

#include "engine/attach.h"

static const char stream[] = "\1\0\0\0\0\0\0\3one"
                             "\2\0\0\0\0\0\0\4oops"
                             "\1\0\0\0\0\0\0\0"
                             "\0\0\0\0\0\0\0\2in"
                             "\1\0\0\0\0\0\0\3two";

struct taken {
    struct attach_state state;
    struct buf out, err;
};

static void taken_init(struct taken *taken, size_t out_bytes, size_t err_bytes)
{
    *taken = (struct taken){0};
    buf_init(&taken->out, out_bytes);
    buf_init(&taken->err, err_bytes);
}

static void taken_done(struct taken *taken)
{
    buf_done(&taken->out);
    buf_done(&taken->err);
}

static int take_part(struct taken *taken, const char *bytes, size_t len)
{
    return attach_take(&taken->state, bytes, len, &taken->out, &taken->err);
}

static void it_comes_in_any_pieces(void **state)
{
    (void)state;
    size_t len = sizeof(stream) - 1;
    for (size_t first = 0; first <= len; first++)
        for (size_t second = first; second <= len; second++) {
            struct taken taken cleanup(taken_done);
            taken_init(&taken, 100, 100);
            assert_int_equal(take_part(&taken, stream, first), 0);
            assert_int_equal(take_part(&taken, stream + first, second - first), 0);
            assert_int_equal(take_part(&taken, stream + second, len - second), 0);
            assert_string_equal(buf_string(&taken.out), "onetwo");
            assert_string_equal(buf_string(&taken.err), "oops");
        }
}

static void what_is_no_stream_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"\3\0\0\0\0\0\0\1x", "\xff\0\0\0\0\0\0\1x",
                                        "\1\1\0\0\0\0\0\1x", "\1\0\1\0\0\0\0\1x",
                                        "\1\0\0\1\0\0\0\1x", "HTTP/1.1 "};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct taken taken cleanup(taken_done);
        taken_init(&taken, 100, 100);
        assert_int_equal(take_part(&taken, wrong[i], 7), 0);
        assert_int_equal(take_part(&taken, wrong[i] + 7, 2), -EBADMSG);
        assert_int_equal(taken.out.len, 0);
    }
}

static void memory_goes_by_what_comes(void **state)
{
    (void)state;
    struct taken taken cleanup(taken_done);
    taken_init(&taken, 10, 5);
    assert_int_equal(take_part(&taken,
                               "\1\0\0\0\xff\xff\xff\xff"
                               "12345",
                               13),
                     0);
    assert_string_equal(buf_string(&taken.out), "12345");
    assert_true(taken.out.room < 1000);
    assert_int_equal(take_part(&taken, "123456", 6), -EMSGSIZE);
    struct taken noisy cleanup(taken_done);
    taken_init(&noisy, 10, 5);
    assert_int_equal(take_part(&noisy,
                               "\2\0\0\0\0\0\0\x0a"
                               "123",
                               11),
                     0);
    assert_int_equal(take_part(&noisy,
                               "4567890"
                               "\1\0\0\0\0\0\0\1"
                               "x",
                               16),
                     0);
    assert_string_equal(buf_string(&noisy.err), "12345");
    assert_string_equal(buf_string(&noisy.out), "x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_comes_in_any_pieces),
        cmocka_unit_test(what_is_no_stream_is_refused),
        cmocka_unit_test(memory_goes_by_what_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
