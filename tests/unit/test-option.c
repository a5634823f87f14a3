/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "fs/option.h"

#include <string.h>

static int parse(struct config *config, struct fail *why, const char *const *words)
{
    char *argv[16] = {0};
    int argc = 0;
    for (; words[argc]; argc++)
        argv[argc] = strdup(words[argc]);
    int r = option_parse(argc, argv, config, why);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    return r;
}

#define PARSE(config, why, ...)                                                                    \
    parse(config, why, (const char *const[]){"mount.dvolfs", __VA_ARGS__, NULL})

static void defaults_follow_from_little(void **state)
{
    (void)state;
    struct config config;
    struct fail why = FAIL_INIT;
    assert_int_equal(PARSE(&config, &why, "/mnt", "-o", "store=/s"), OPTION_RUN);
    assert_string_equal(config.spec, "docker");
    assert_string_equal(config.mountpoint, "/mnt");
    assert_string_equal(config.store, "/s");
    assert_string_equal(config.spool, "/s/.spool");
    assert_int_equal(config.volumes.access, VOLUMES_ACCESS_AUTO);
    assert_true(config.cache_seconds == 1);
    assert_false(config.foreground);
    config_done(&config);
}

static void an_ordinary_user_has_a_store_of_his_own(void **state)
{
    (void)state;
    struct config config;
    struct fail why = FAIL_INIT;
    (void)setenv("XDG_DATA_HOME", "/data", 1);
    assert_int_equal(PARSE(&config, &why, "/mnt"), OPTION_RUN);
    assert_string_equal(config.store, geteuid() == 0 ? "/var/lib/dvolfs" : "/data/dvolfs");
    config_done(&config);
}

static void mount_calls_it_its_own_way(void **state)
{
    (void)state;
    struct config config;
    struct fail why = FAIL_INIT;
    assert_int_equal(PARSE(&config, &why, "unix:///x.sock", "/mnt", "-n", "-v", "-o",
                           "rw,_netdev,nofail,user,noauto,x-systemd.automount,comment=a b,"
                           "user=me,noexec,cache=0.5",
                           "-o", "spool=/a\\,b"),
                     OPTION_RUN);
    assert_string_equal(config.spec, "unix:///x.sock");
    assert_string_equal(config.spool, "/a,b");
    assert_string_equal(buf_string(&config.fuse_options), ",rw,noexec");
    assert_true(config.cache_seconds == 0.5);
    config_done(&config);
}

static void check_refused(const char *option, const char *expected)
{
    struct config config;
    struct fail why = FAIL_INIT;
    assert_int_equal(PARSE(&config, &why, "/mnt", "-o", option), -EINVAL);
    if (!strstr(why.text, expected))
        fail_msg("\"%s\" does not name %s", why.text, expected);
    config_done(&config);
}

static void bad_options_are_named(void **state)
{
    (void)state;
    check_refused("nonsense", "nonsense");
    check_refused("store", "store");
    check_refused("store=", "store");
    check_refused("store=relative", "relative");
    check_refused("cache=soon", "soon");
    check_refused("cache=-1", "-1");
    check_refused("cache=nan", "nan");
    check_refused("cache=1e9", "1e9");
    check_refused("access=magic", "magic");
    check_refused("ro=1", "ro");
}

static void words_are_counted(void **state)
{
    (void)state;
    struct config config;
    struct fail why = FAIL_INIT;
    assert_int_equal(PARSE(&config, &why, "-f"), -EINVAL);
    config_done(&config);
    assert_int_equal(PARSE(&config, &why, "a", "b", "c"), -EINVAL);
    config_done(&config);
    assert_int_equal(PARSE(&config, &why, "-x", "/mnt"), -EINVAL);
    config_done(&config);
}

static void help_shows_the_table(void **state)
{
    (void)state;
    struct config config;
    struct fail why = FAIL_INIT;
    assert_int_equal(PARSE(&config, &why, "-h"), OPTION_HELP);
    config_done(&config);
    assert_int_equal(PARSE(&config, &why, "-V"), OPTION_VERSION);
    config_done(&config);
    struct buf text cleanup_buf;
    buf_init(&text, 65536);
    assert_int_equal(option_help(&text), 0);
    assert_non_null(strstr(text.data, "cache=SECONDS"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_follow_from_little),
        cmocka_unit_test(an_ordinary_user_has_a_store_of_his_own),
        cmocka_unit_test(mount_calls_it_its_own_way),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(words_are_counted),
        cmocka_unit_test(help_shows_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
