/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "base/buf.h"

#include <string.h>

static void grows_and_stays_terminated(void **state)
{
    (void)state;
    struct buf buf cleanup_buf;
    buf_init(&buf, 100000);
    assert_string_equal(buf_string(&buf), "");
    for (int i = 0; i < 10000; i++)
        assert_int_equal(buf_printf(&buf, "%04d,", i), 0);
    assert_int_equal(buf.len, 50000);
    assert_memory_equal(buf.data + 5 * 9999, "9999,", 6);
}

static void refuses_more_than_its_limit_and_keeps_what_it_had(void **state)
{
    (void)state;
    struct buf buf cleanup_buf;
    buf_init(&buf, 8);
    assert_int_equal(buf_add_string(&buf, "12345678"), 0);
    assert_int_equal(buf_add(&buf, "9", 1), -EMSGSIZE);
    assert_int_equal(buf_printf(&buf, "%d", 9), -EMSGSIZE);
    assert_int_equal(buf_add_zeros(&buf, 1), -EMSGSIZE);
    assert_int_equal(buf_add(&buf, "", (size_t)-1), -EMSGSIZE);
    assert_string_equal(buf_string(&buf), "12345678");
}

static void drops_from_the_front(void **state)
{
    (void)state;
    struct buf buf cleanup_buf;
    buf_init(&buf, 64);
    assert_int_equal(buf_add_string(&buf, "onetwo"), 0);
    buf_drop_front(&buf, 3);
    assert_string_equal(buf_string(&buf), "two");
    buf_drop_front(&buf, 3);
    assert_string_equal(buf_string(&buf), "");
    assert_int_equal(buf_add_zeros(&buf, 2), 0);
    assert_int_equal(buf.len, 2);
}

static void hands_its_memory_out(void **state)
{
    (void)state;
    struct buf buf cleanup_buf;
    buf_init(&buf, 64);
    cleanup_free char *empty = buf_take(&buf);
    assert_string_equal(empty, "");
    assert_int_equal(buf_add_string(&buf, "text"), 0);
    cleanup_free char *text = buf_take(&buf);
    assert_string_equal(text, "text");
    assert_int_equal(buf.len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_stays_terminated),
        cmocka_unit_test(refuses_more_than_its_limit_and_keeps_what_it_had),
        cmocka_unit_test(drops_from_the_front),
        cmocka_unit_test(hands_its_memory_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
