/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "volume/owner.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

static void this_process_is_alive(void **state)
{
    (void)state;
    char self[OWNER_BYTES];
    assert_int_equal(owner_self(self), 0);
    assert_int_equal(owner_check(self, time(NULL)), OWNER_ALIVE);
}

static void a_child_is_dead_once_it_is_reaped(void **state)
{
    (void)state;
    int pipe_fd[2];
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char own[OWNER_BYTES] = "";
        ssize_t n = owner_self(own) == 0 ? write(pipe_fd[1], own, sizeof(own)) : 0;
        _exit(n == sizeof(own) ? 0 : 1);
    }
    char owner[OWNER_BYTES];
    assert_int_equal(read(pipe_fd[0], owner, sizeof(owner)), sizeof(owner));
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(owner_check(owner, time(NULL)), OWNER_DEAD);
    (void)close(pipe_fd[0]);
    (void)close(pipe_fd[1]);
}

/* The same pid, started at another time, is another process. */
static void a_reused_pid_is_dead(void **state)
{
    (void)state;
    char self[OWNER_BYTES], other[2 * OWNER_BYTES];
    assert_int_equal(owner_self(self), 0);
    *strrchr(self, ':') = '\0';
    (void)snprintf(other, sizeof(other), "%s:1", self);
    assert_int_equal(owner_check(other, time(NULL)), OWNER_DEAD);
}

static void another_boot_is_dead_or_another_machine(void **state)
{
    (void)state;
    const char *other = "00000000-0000-4000-8000-000000000000:1:1:1";
    assert_int_equal(owner_check(other, 0), OWNER_DEAD);
    assert_int_equal(owner_check(other, time(NULL)), OWNER_UNKNOWN);
}

static void nonsense_is_unknown(void **state)
{
    (void)state;
    assert_int_equal(owner_check("", 0), OWNER_UNKNOWN);
    assert_int_equal(owner_check("image", 0), OWNER_UNKNOWN);
    assert_int_equal(owner_check("a:b:c:d", 0), OWNER_UNKNOWN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(this_process_is_alive),
        cmocka_unit_test(a_child_is_dead_once_it_is_reaped),
        cmocka_unit_test(a_reused_pid_is_dead),
        cmocka_unit_test(another_boot_is_dead_or_another_machine),
        cmocka_unit_test(nonsense_is_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
