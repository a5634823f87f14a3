/* SPDX-License-Identifier: MIT */
/* Stands in for libFuzzer: gives a fuzzer each file of the directories named, once. */
#include "fuzz.h"

#include "base/buf.h"

#include <dirent.h>
#include <fcntl.h>

#define SEED_MAX_BYTES ((size_t)1 << 20)

static int replay_file(int dir, const char *name)
{
    cleanup_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    struct buf seed cleanup_buf;
    buf_init(&seed, SEED_MAX_BYTES);
    char chunk[4096];
    ssize_t n;
    while (fd >= 0 && (n = read(fd, chunk, sizeof(chunk))) > 0)
        if (buf_add(&seed, chunk, (size_t)n) < 0)
            return -1;
    if (fd < 0 || n < 0)
        return -1;
    cleanup_free uint8_t *copy = malloc(seed.len ? seed.len : 1); /* the sanitizer knows its end */
    require(copy != NULL);
    memcpy(copy, buf_string(&seed), seed.len);
    return LLVMFuzzerTestOneInput(copy, seed.len);
}

/* How many it has; -1: not to be read. */
static int replay_dir(const char *path)
{
    DIR *dir = opendir(path);
    int count = dir ? 0 : -1;
    const struct dirent *entry;
    while (count >= 0 && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        (void)fprintf(stderr, "%s/%s\n", path, entry->d_name); /* the last one did it */
        count = replay_file(dirfd(dir), entry->d_name) < 0 ? -1 : count + 1;
    }
    if (dir)
        (void)closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (replay_dir(argv[i]) <= 0) {
            (void)fprintf(stderr, "%s: no seeds there\n", argv[i]);
            return 1;
        }
    return argc > 1 ? 0 : 1;
}
