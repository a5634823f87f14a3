/* SPDX-License-Identifier: MIT */
/* The small parts of src/base: fail, cancel, log, workers, fd. */
#include "check.h"

#include "base/cancel.h"
#include "base/fail.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/workers.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- fail ------------------------------------------------------------------ */

static void a_sentence_is_prefixed_on_its_way_up(void **state)
{
    (void)state;
    struct fail why = FAIL_INIT;
    assert_string_equal(fail_text(&why, -ENOENT), strerror(ENOENT));
    int r = fail_errno(&why, ENOSPC, "writing %s", "x");
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(fail_prefix(&why, r, "volume %s", "v"), -ENOSPC);
    char expected[128];
    (void)snprintf(expected, sizeof(expected), "volume v: writing x: %s", strerror(ENOSPC));
    assert_string_equal(fail_text(&why, r), expected);
    assert_int_equal(fail_set(NULL, EIO, "nobody asked"), -EIO);
}

static void a_sentence_is_one_printable_line_of_bounded_length(void **state)
{
    (void)state;
    struct fail why = FAIL_INIT;
    (void)fail_set(&why, EPERM, "%s", "a\nb\x1b[31mc\x7f");
    assert_string_equal(why.text, "a?b?[31mc?");
    char big[3 * FAIL_TEXT_BYTES];
    memset(big, 'x', sizeof(big));
    big[sizeof(big) - 1] = '\0';
    (void)fail_set(&why, EPERM, "%s", big);
    assert_int_equal(strlen(why.text), FAIL_TEXT_BYTES - 1);
    (void)fail_prefix(&why, -EPERM, "%s", big);
    assert_int_equal(strlen(why.text), FAIL_TEXT_BYTES - 1);
}

/* ---- cancel ------------------------------------------------------------------ */

static void count(void *data)
{
    (*(int *)data)++;
}

static void hooks_run_once_and_late_ones_at_once(void **state)
{
    (void)state;
    struct cancel *cancel cleanup_cancel = cancel_new();
    int early = 0, removed = 0, late = 0;
    struct cancel_hook a = {.run = count, .data = &early};
    struct cancel_hook b = {.run = count, .data = &removed};
    struct cancel_hook c = {.run = count, .data = &late};
    cancel_hook_add(cancel, &a);
    cancel_hook_add(cancel, &b);
    cancel_hook_remove(cancel, &b);
    struct pollfd pfd = {.fd = cancel_fd(cancel), .events = POLLIN};
    assert_int_equal(poll(&pfd, 1, 0), 0);
    assert_false(cancel_is_raised(cancel));
    cancel_raise(cancel);
    cancel_raise(cancel);
    assert_true(cancel_is_raised(cancel));
    assert_int_equal(poll(&pfd, 1, 0), 1);
    cancel_hook_add(cancel, &c);
    assert_int_equal(early, 1);
    assert_int_equal(removed, 0);
    assert_int_equal(late, 1);
    cancel_hook_remove(cancel, &a);
    cancel_hook_remove(cancel, &c);
}

static void no_cancel_is_never_raised(void **state)
{
    (void)state;
    struct cancel_hook hook = {.run = count};
    assert_false(cancel_is_raised(NULL));
    assert_int_equal(cancel_fd(NULL), -1);
    cancel_hook_add(NULL, &hook);
    cancel_hook_remove(NULL, &hook);
    cancel_unref(NULL);
    assert_null(cancel_ref(NULL));
}

/* ---- log --------------------------------------------------------------------- */

static void a_log_grows_like_a_file(void **state)
{
    (void)state;
    struct log *log = log_new(false);
    log_event(log, "one");
    uint64_t first, bytes, generation;
    log_extent(log, &first, &generation);
    log_event(log, "two\nlines");
    log_extent(log, &bytes, &generation);
    assert_int_equal(generation, 0);
    char text[128];
    size_t n = log_read(log, 0, first, text, sizeof(text));
    assert_int_equal(n, bytes - first);
    /* "2026-11-22T09:30:00Z " and the text */
    assert_memory_equal(text + 21, "two?lines\n", 10);
    assert_int_equal(log_read(log, 0, bytes, text, sizeof(text)), 0);
    assert_int_equal(log_read(log, 1, 0, text, sizeof(text)), 0);
    log_free(log);
}

static void a_log_keeps_whole_lines_when_it_drops_the_older_half(void **state)
{
    (void)state;
    struct log *log = log_new(false);
    uint64_t bytes, generation = 0;
    for (int i = 0; generation < 2; i++) {
        log_event(log, "line %d", i);
        log_extent(log, &bytes, &generation);
        assert_true(bytes <= LOG_MAX_BYTES);
    }
    char text[64] = "";
    assert_true(log_read(log, 2, 0, text, sizeof(text) - 1) > 0);
    assert_memory_equal(text + 20, " line ", 6);
    log_free(log);
    log_event(NULL, "nobody listens");
}

/* ---- workers ------------------------------------------------------------------- */

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int inside;
    bool open;
};

static void wait_at_gate(void *data)
{
    struct gate *gate = data;
    scoped_lock(&gate->lock);
    gate->inside++;
    (void)pthread_cond_broadcast(&gate->changed);
    while (!gate->open)
        (void)pthread_cond_wait(&gate->changed, &gate->lock);
}

static void threads_grow_with_waiting_work_up_to_the_limit(void **state)
{
    (void)state;
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct workers *workers = workers_new(8);
    for (int i = 0; i < 20; i++)
        assert_int_equal(workers_submit(workers, wait_at_gate, &gate), 0);
    {
        scoped_lock(&gate.lock);
        while (gate.inside < 8)
            (void)pthread_cond_wait(&gate.changed, &gate.lock);
        assert_int_equal(gate.inside, 8);
        gate.open = true;
        (void)pthread_cond_broadcast(&gate.changed);
    }
    workers_stop(workers);
    assert_int_equal(gate.inside, 20);
    assert_int_equal(workers_submit(workers, wait_at_gate, &gate), -ESHUTDOWN);
    workers_free(workers);
    workers_free(NULL);
}

/* ---- fd ------------------------------------------------------------------------- */

static void unnamed_files_leave_nothing_behind(void **state)
{
    (void)state;
    char dir[] = "/tmp/test-base-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct fail why = FAIL_INIT;
    int fd = fd_unnamed_file(dir, &why);
    assert_true(fd >= 0);
    assert_int_equal(fd_pwrite_all(fd, "hello", 5, 3), 0);
    char text[16];
    assert_int_equal(fd_pread_full(fd, text, sizeof(text), 0), 8);
    assert_memory_equal(text, "\0\0\0hello", 8);
    assert_int_equal(fd_pread_full(fd, text, sizeof(text), 100), 0);
    (void)close(fd);
    assert_int_equal(rmdir(dir), 0); /* it was empty */
    assert_int_equal(fd_unnamed_file(dir, &why), -ENOENT);
    assert_non_null(strstr(why.text, dir));
}

static void directories_are_made_with_their_parents(void **state)
{
    (void)state;
    char dir[] = "/tmp/test-base-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char a[64], b[64];
    (void)snprintf(a, sizeof(a), "%s/a", dir);
    (void)snprintf(b, sizeof(b), "%s/a/b", dir);
    struct fail why = FAIL_INIT;
    assert_int_equal(fd_make_dirs(b, &why), 0);
    assert_int_equal(fd_make_dirs(b, &why), 0);
    struct stat st;
    assert_int_equal(stat(b, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(rmdir(b), 0);
    FILE *file = fopen(b, "w");
    assert_non_null(file);
    (void)fclose(file);
    assert_int_equal(fd_make_dirs(b, &why), -ENOTDIR);
    (void)unlink(b);
    (void)rmdir(a);
    (void)rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sentence_is_prefixed_on_its_way_up),
        cmocka_unit_test(a_sentence_is_one_printable_line_of_bounded_length),
        cmocka_unit_test(hooks_run_once_and_late_ones_at_once),
        cmocka_unit_test(no_cancel_is_never_raised),
        cmocka_unit_test(a_log_grows_like_a_file),
        cmocka_unit_test(a_log_keeps_whole_lines_when_it_drops_the_older_half),
        cmocka_unit_test(threads_grow_with_waiting_work_up_to_the_limit),
        cmocka_unit_test(unnamed_files_leave_nothing_behind),
        cmocka_unit_test(directories_are_made_with_their_parents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
