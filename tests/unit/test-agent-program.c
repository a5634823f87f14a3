/* SPDX-License-Identifier: MIT */
/* dvolfs-agent as a process: its arguments, its way in and out, and its end. */
#include "test-agent.h"

#include "agent/program.h"

#include <link.h>
#include <signal.h>
#include <sys/un.h>
#include <sys/wait.h>

static const char *program;

static int set_up(void **state)
{
    (void)state;
    make_top();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_top();
    return 0;
}

/* A running agent, and the other ends of its stdin, stdout and stderr. */
struct agent {
    pid_t pid;
    int to, from, errors;
};

static void start(struct agent *agent, const char *const *arguments)
{
    int to[2], from[2], errors[2];
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    assert_int_equal(pipe2(errors, O_CLOEXEC), 0);
    agent->pid = fork();
    if (agent->pid == 0) {
        (void)dup2(to[0], 0);
        (void)dup2(from[1], 1);
        (void)dup2(errors[1], 2);
        (void)execv(program, (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    (void)close(to[0]);
    (void)close(from[1]);
    (void)close(errors[1]);
    agent->to = to[1];
    agent->from = from[0];
    agent->errors = errors[0];
}

static void start_on_top(struct agent *agent, const char *socket)
{
    const char *const arguments[] = {
        "dvolfs-agent", "--nonce", NONCE, "--root", top, socket ? "--socket" : NULL, socket, NULL};
    start(agent, arguments);
}

/* Its exit status, and all it said on stderr. */
static int wait_for(struct agent *agent, char *said, size_t room)
{
    size_t len = 0;
    ssize_t n;
    while (len < room - 1 && (n = read(agent->errors, said + len, room - 1 - len)) > 0)
        len += (size_t)n;
    said[len] = '\0';
    int status;
    assert_int_equal(waitpid(agent->pid, &status, 0), agent->pid);
    (void)close(agent->errors);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect_good_end(struct agent *agent)
{
    char said[1000];
    assert_int_equal(wait_for(agent, said, sizeof(said)), 0);
    assert_string_equal(said, "");
}

static void expect_contents(struct client *client, const char *path, bool is_socket)
{
    struct answer answer cleanup_answer = ask(client, open_request(client, path, 0, AGENT_WANT_FD));
    assert_int_equal(answer.frame.flags, is_socket ? AGENT_DESCRIPTOR : 0);
    if (is_socket) {
        char text[8] = "";
        assert_int_equal(read(answer.fd, text, sizeof(text)), 5);
        assert_string_equal(text, "hello");
        return;
    }
    struct answer read cleanup_answer =
        ask(client, (struct agent_request){
                        .type = AGENT_READ, .handle = (uint32_t)answer.frame.result, .bytes = 100});
    assert_string_equal(read.payload, "hello");
}

static void it_serves_on_stdin_and_stdout(void **state)
{
    (void)state;
    run("mkdir d && printf hello >d/f");
    struct agent agent;
    start_on_top(&agent, NULL);
    struct client client;
    client_init(&client, agent.from, agent.to);
    expect_hello(&client);
    expect_contents(&client, "d/f", false);
    assert_int_equal(result_of(&client, (struct agent_request){.type = AGENT_STAT, .path = ".."}),
                     -EXDEV);
    expect_end(&client);
    client_done(&client);
    expect_good_end(&agent);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

static void it_serves_on_a_socket_with_descriptors(void **state)
{
    (void)state;
    run("mkdir d && printf hello >d/f");
    char path[100];
    (void)snprintf(path, sizeof(path), "%s/socket", top);
    cleanup_close int listener = listen_at(path);
    struct agent agent;
    start_on_top(&agent, path);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    struct client client;
    client_init(&client, fd, fd);
    expect_hello(&client);
    expect_contents(&client, "d/f", true);
    expect_end(&client);
    client_done(&client);
    expect_good_end(&agent);
    char byte;
    assert_int_equal(read(agent.from, &byte, 1), 0); /* nothing went that way */
    (void)close(agent.from);
    (void)close(agent.to);
}

static void where_there_is_no_socket_it_serves_all_the_same(void **state)
{
    (void)state;
    run("mkdir d && printf hello >d/f");
    char too_long[300];
    memset(too_long, 's', sizeof(too_long));
    too_long[sizeof(too_long) - 1] = '\0';
    char stale[100];
    (void)snprintf(stale, sizeof(stale), "%s/stale", top);
    (void)close(listen_at(stale));
    const char *const sockets[] = {"/nonexistent/socket", top, too_long, stale};
    for (size_t i = 0; i < sizeof(sockets) / sizeof(sockets[0]); i++) {
        struct agent agent;
        start_on_top(&agent, sockets[i]);
        struct client client;
        client_init(&client, agent.from, agent.to);
        expect_hello(&client);
        expect_contents(&client, "d/f", false);
        client_done(&client);
        expect_good_end(&agent);
    }
}

static void expect_failure(const char *const *arguments, const char *expected)
{
    struct agent agent;
    start(&agent, arguments);
    char said[1000];
    assert_int_equal(wait_for(&agent, said, sizeof(said)), 1);
    assert_non_null(strstr(said, expected));
    (void)close(agent.to);
    (void)close(agent.from);
}

static void what_is_wrong_is_told(void **state)
{
    (void)state;
    run(": >file");
    char file[100];
    (void)snprintf(file, sizeof(file), "%s/file", top);
    expect_failure((const char *const[]){"a", NULL}, "usage");
    expect_failure((const char *const[]){"a", "--nonce", NONCE, NULL}, "usage");
    expect_failure((const char *const[]){"a", "--root", top, NULL}, "usage");
    expect_failure((const char *const[]){"a", "--nonce", NONCE, "--root", NULL}, "usage");
    expect_failure((const char *const[]){"a", "--nonce", "12", "--root", top, NULL}, "usage");
    expect_failure((const char *const[]){"a", "--nonce", NONCE, "--root", top, "--more", "x", NULL},
                   "usage");
    expect_failure((const char *const[]){"a", "--nonce", NONCE, "--root", "/nonexistent", NULL},
                   "/nonexistent: No such file or directory");
    expect_failure((const char *const[]){"a", "--nonce", NONCE, "--root", file, NULL},
                   "Not a directory");
}

static void nonsense_ends_it_with_a_word(void **state)
{
    (void)state;
    struct agent agent;
    start_on_top(&agent, NULL);
    struct client client;
    client_init(&client, agent.from, agent.to);
    expect_hello(&client);
    send_bytes(&client, "GET / HTTP/1.1\r\n\r\n", 18);
    char said[1000];
    assert_int_equal(wait_for(&agent, said, sizeof(said)), 1);
    assert_string_equal(said, "dvolfs-agent: serving: Bad message\n");
    client_done(&client);
}

static void it_ends_when_it_is_told_to(void **state)
{
    (void)state;
    static const int signals[] = {SIGTERM, SIGINT};
    for (size_t i = 0; i < 2; i++) {
        struct agent agent;
        start_on_top(&agent, NULL);
        struct client client;
        client_init(&client, agent.from, agent.to);
        expect_hello(&client); /* so it is ready */
        assert_int_equal(kill(agent.pid, signals[i]), 0);
        expect_good_end(&agent);
        client_done(&client);
    }
}

static void it_opens_more_than_it_was_given_room_for(void **state)
{
    (void)state;
    run("printf hello >f");
    struct rlimit files, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    few = files;
    few.rlim_cur = 32;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    struct agent agent;
    start_on_top(&agent, NULL);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    struct client client;
    client_init(&client, agent.from, agent.to);
    expect_hello(&client);
    struct agent_request request = open_request(&client, "f", 0, 0);
    for (int i = 0; i < 200; i++)
        assert_true(result_of(&client, request) > 0);
    client_done(&client);
    expect_good_end(&agent);
}

/* ---- the program ------------------------------------------------------------------- */

static char *read_program(size_t *ret_bytes)
{
    FILE *file = fopen(program, "re");
    assert_non_null(file);
    struct buf data;
    buf_init(&data, 1 << 24);
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
        assert_int_equal(buf_add(&data, chunk, n), 0);
    (void)fclose(file);
    *ret_bytes = data.len;
    return buf_take(&data);
}

static void the_embedded_program_is_the_program(void **state)
{
    (void)state;
    size_t bytes;
    cleanup_free char *data = read_program(&bytes);
    assert_int_equal(agent_program_bytes, bytes);
    assert_memory_equal(agent_program, data, bytes);
    char command[1000];
    (void)snprintf(command, sizeof(command), "sha256sum '%s' | grep -q '^%s'", program,
                   agent_program_hash);
    assert_int_equal(strlen(agent_program_hash), 16);
    assert_int_equal(system(command), 0);
}

static void it_needs_nothing_beside_it(void **state)
{
    (void)state;
    const ElfW(Ehdr) *head = (const void *)agent_program;
    assert_memory_equal(head->e_ident, ELFMAG, SELFMAG);
    for (unsigned i = 0; i < head->e_phnum; i++) {
        ElfW(Phdr) segment;
        memcpy(&segment, agent_program + head->e_phoff + i * sizeof(segment), sizeof(segment));
        assert_int_not_equal(segment.p_type, PT_INTERP);
        assert_int_not_equal(segment.p_type, PT_DYNAMIC);
    }
    assert_true(agent_program_bytes < 1 << 20);
}

int main(void)
{
    program = getenv("DVOLFS_AGENT");
    if (!program) {
        (void)fprintf(stderr, "DVOLFS_AGENT: the program to test\n");
        return 1;
    }
    (void)signal(SIGPIPE, SIG_IGN);
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(it_serves_on_stdin_and_stdout),
        TEST(it_serves_on_a_socket_with_descriptors),
        TEST(where_there_is_no_socket_it_serves_all_the_same),
        TEST(what_is_wrong_is_told),
        TEST(nonsense_ends_it_with_a_word),
        TEST(it_ends_when_it_is_told_to),
        TEST(it_opens_more_than_it_was_given_room_for),
        TEST(the_embedded_program_is_the_program),
        TEST(it_needs_nothing_beside_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
