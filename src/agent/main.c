/* SPDX-License-Identifier: MIT */
/*
 * dvolfs-agent: agent/server.h on the volume of a helper container, where it is
 * the only program and process 1.
 *
 *     dvolfs-agent --nonce HEX [--socket PATH] --root PATH
 *
 * Over the socket, where there is one that can be connected to, else over stdin
 * and stdout.  It ends with its input.
 */
#include "agent/protocol.h"
#include "agent/server.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#define THREADS 4
/* Of the pipe to whoever carries our stdout on: fewer wake-ups. */
#define PIPE_BYTES (1 << 20)

struct arguments {
    const char *nonce, *socket, *root;
};

static bool is_nonce(const char *text)
{
    return strlen(text) == AGENT_NONCE_BYTES &&
           strspn(text, "0123456789abcdef") == AGENT_NONCE_BYTES;
}

static bool read_arguments(char **argv, struct arguments *ret)
{
    const struct {
        const char *name;
        const char **value;
    } known[] = {{"--nonce", &ret->nonce}, {"--socket", &ret->socket}, {"--root", &ret->root}};
    for (argv++; argv[0]; argv += 2) {
        size_t i = 0;
        while (i < 3 && strcmp(argv[0], known[i].name) != 0)
            i++;
        if (i == 3 || !argv[1])
            return false;
        *known[i].value = argv[1];
    }
    return ret->root && ret->nonce && is_nonce(ret->nonce);
}

/* A connection, or -1. */
static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || strlen(path) >= sizeof(address.sun_path))
        return -1;
    memcpy(address.sun_path, path, strlen(path));
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return -1;
    return take_fd(&fd);
}

static void end(int number)
{
    (void)number;
    _exit(0);
}

static void prepare_process(void)
{
    /* The kernel keeps signals that are left to their defaults from process 1. */
    (void)signal(SIGTERM, end);
    (void)signal(SIGINT, end);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)mallopt(M_ARENA_MAX, 1); /* of memory that each thread would keep for itself */
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

static int fail(const char *what, int err)
{
    (void)dprintf(STDERR_FILENO, "dvolfs-agent: %s: %s\n", what, strerror(err));
    return 1;
}

int main(int argc, char **argv)
{
    struct arguments arguments = {0};
    if (argc < 1 || !read_arguments(argv, &arguments))
        return fail("usage: --nonce HEX [--socket PATH] --root PATH", EINVAL);
    prepare_process();
    cleanup_close int root = open(arguments.root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return fail(arguments.root, errno);
    cleanup_close int connection = connect_to(arguments.socket);
    (void)fcntl(STDOUT_FILENO, F_SETPIPE_SZ, PIPE_BYTES); /* where it is one, and that is allowed */
    const struct agent_server server = {
        .root = root,
        .in = connection >= 0 ? connection : STDIN_FILENO,
        .out = connection >= 0 ? connection : STDOUT_FILENO,
        .is_socket = connection >= 0,
        .nonce = arguments.nonce,
        .threads = THREADS,
    };
    int r = agent_serve(&server);
    return r < 0 ? fail("serving", -r) : 0;
}
