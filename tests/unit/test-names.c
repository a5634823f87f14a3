/* SPDX-License-Identifier: MIT */
/* Names: of archives in restore/, in URLs, of endpoints. */
#include "check.h"

#include "engine/engine.h"
#include "job/restore.h"
#include "volume/volumes.h"

#include <string.h>

static void archives_are_told_by_their_names(void **state)
{
    (void)state;
    static const char *const yes[] = {"x.tar",    "x.tar.gz", "x.tgz",     "x.tar.zst", "x.tzst",
                                      "x.tar.xz", "x.txz",    "x.tar.bz2", "x.tbz2",    "a.b.tar"};
    static const char *const no[] = {"tar",    ".tar",       ".x.tar",    ".x.tar.AbC123",
                                     "x.tar~", "x.tar.part", "x.tar.gz2", "x.zip",
                                     "x",      "tgz"};
    for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++)
        assert_true(restore_is_archive_name(yes[i]));
    for (size_t i = 0; i < sizeof(no) / sizeof(*no); i++)
        assert_false(restore_is_archive_name(no[i]));
}

static void temporary_names_are_those_of_the_tools(void **state)
{
    (void)state;
    static const char *const yes[] = {".x.tar.AbC123", ".goutputstream-ABC", "x.tar.part",
                                      "x.tar~",        "x.tar.crdownload",   "x.tar.filepart"};
    for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++)
        assert_true(restore_is_temporary_name(yes[i]));
    assert_false(restore_is_temporary_name("backup"));
    assert_false(restore_is_temporary_name("x.tar"));
    assert_false(restore_is_temporary_name("part"));
}

static void names_are_escaped_for_urls(void **state)
{
    (void)state;
    cleanup_free char *plain = engine_escape("aZ0-._~");
    assert_string_equal(plain, "aZ0-._~");
    cleanup_free char *odd = engine_escape("a/b?c=d&e f%\xff\n");
    assert_string_equal(odd, "a%2Fb%3Fc%3Dd%26e%20f%25%FF%0A");
}

static void check_endpoint(const char *spec, const char *expected)
{
    char *endpoint = NULL;
    struct fail why = FAIL_INIT;
    int r = volumes_endpoint(spec, &endpoint, &why);
    if (expected) {
        assert_int_equal(r, 0);
        assert_string_equal(endpoint, expected);
    } else {
        assert_int_equal(r, -EINVAL);
        assert_null(endpoint);
        assert_true(why.text[0]);
    }
    free(endpoint);
}

static void a_spec_stands_for_an_endpoint(void **state)
{
    (void)state;
    (void)unsetenv("DOCKER_HOST");
    check_endpoint("docker", "unix:///var/run/docker.sock");
    (void)setenv("DOCKER_HOST", "", 1);
    check_endpoint("default", "unix:///var/run/docker.sock");
    (void)setenv("DOCKER_HOST", "unix:///tmp/other.sock", 1);
    check_endpoint("default", "unix:///tmp/other.sock");
    check_endpoint("unix:///run/x.sock", "unix:///run/x.sock");
    (void)setenv("DOCKER_HOST", "tcp://192.0.2.1:2376", 1);
    check_endpoint("docker", NULL);
    check_endpoint("tcp://192.0.2.1:2376", NULL);
    check_endpoint("/run/x.sock", NULL);
    check_endpoint("unix://relative", NULL);
    check_endpoint("", NULL);
}

static void an_endpoint_must_fit_a_socket_address(void **state)
{
    (void)state;
    struct engine *engine = NULL;
    struct fail why = FAIL_INIT;
    char path[200];
    memset(path, 'x', sizeof(path));
    memcpy(path, "unix:///", 8);
    path[8 + 106] = '\0'; /* "/" and 106 more: 107 bytes */
    assert_int_equal(engine_open(path, &engine, &why), 0);
    assert_string_equal(engine_endpoint(engine), path);
    engine_close(engine);
    path[8 + 106] = 'x';
    path[8 + 107] = '\0';
    assert_int_equal(engine_open(path, &engine, &why), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(archives_are_told_by_their_names),
        cmocka_unit_test(temporary_names_are_those_of_the_tools),
        cmocka_unit_test(names_are_escaped_for_urls),
        cmocka_unit_test(a_spec_stands_for_an_endpoint),
        cmocka_unit_test(an_endpoint_must_fit_a_socket_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
