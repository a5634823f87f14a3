/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "store/compress.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#define CHUNK_BYTES ((size_t)128 * 1024)
#define COUNT_MAX 400
#define NEVER UINT64_MAX

static const struct codec *const codecs[] = {&codec_zstd, &codec_gzip};

/* Bytes that are told by the chunk's number alone; some compress, some don't. */
static size_t fill(uint64_t number, unsigned char *data)
{
    static const size_t lengths[] = {CHUNK_BYTES, 1, 70000, 0, CHUNK_BYTES - 1, 513};
    size_t bytes = lengths[number % 6];
    uint64_t random = number * 77 + 1;
    for (size_t i = 0; i < bytes; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        data[i] = (unsigned char)(number % 4 == 0 ? random >> 56 : number + (random >> 62));
    }
    return bytes;
}

/* What both ends share. */
struct run {
    uint64_t count;      /* of chunks, then: */
    uint64_t fail_in_at; /* or NEVER */
    uint64_t fail_out_at;
    uint64_t fail_meanwhile_at;
    uint64_t cancel_at;
    uint64_t order_seed; /* numbers[i] is put in as the i-th */
    unsigned full;       /* the first consume waits until so many were produced */
    atomic_ullong produced;
    atomic_ullong consumed;
    uint64_t meanwhiles;
    bool failed_in;
    bool failed_out;
    pthread_t producer;
    struct cancel *cancel;
    bool wait_for_cancel; /* consume never returns before */
    int fd;               /* gets all frames; -1: none */
    const struct codec *codec;
    unsigned threads;
    uint64_t sums[COUNT_MAX]; /* of the frames, by the chunk's number */
};

static struct run new_run(uint64_t count)
{
    return (struct run){.count = count,
                        .fail_in_at = NEVER,
                        .fail_out_at = NEVER,
                        .fail_meanwhile_at = NEVER,
                        .cancel_at = NEVER,
                        .fd = -1,
                        .codec = &codec_zstd,
                        .threads = 4};
}

static uint64_t number_of(const struct run *run, uint64_t place)
{
    return (place + run->order_seed) % run->count;
}

static int produce(void *data, struct compress_chunk *chunk, struct fail *why)
{
    struct run *run = data;
    uint64_t place = atomic_load(&run->produced);
    assert_true(pthread_equal(pthread_self(), run->producer));
    assert_false(run->failed_in);
    assert_true(chunk->bytes == 0 && chunk->cookie == 0);
    assert_true(place - atomic_load(&run->consumed) < COMPRESS_SLOTS(run->threads));
    if (place == run->fail_in_at) {
        run->failed_in = true;
        return fail_set(why, ENXIO, "in at %d", (int)place);
    }
    if (place == run->cancel_at)
        cancel_raise(run->cancel);
    if (place == run->count)
        return 0;
    chunk->cookie = number_of(run, place);
    chunk->bytes = fill(chunk->cookie, chunk->data);
    atomic_fetch_add(&run->produced, 1);
    return 1;
}

static void check_frame(struct run *run, const struct compress_frame *frame)
{
    static unsigned char expected[CHUNK_BYTES];
    uint64_t number = frame->cookie;
    assert_int_equal(number, number_of(run, atomic_load(&run->consumed)));
    assert_int_equal(frame->chunk_bytes, fill(number, expected));
    assert_true(frame->bytes > 0);
    run->sums[number] = crc32(0, frame->data, (uInt)frame->bytes) | (uint64_t)frame->bytes << 32;
    if (run->codec == &codec_gzip)
        assert_int_equal(frame->checksum, crc32(0, expected, (uInt)frame->chunk_bytes));
    if (run->fd >= 0)
        assert_int_equal(write(run->fd, frame->data, frame->bytes), (ssize_t)frame->bytes);
}

/* Once before each consume, and before the end. */
static int meanwhile(void *data, struct fail *why)
{
    struct run *run = data;
    assert_false(run->failed_out);
    assert_int_equal(run->meanwhiles, atomic_load(&run->consumed));
    if (run->meanwhiles == run->fail_meanwhile_at) {
        run->failed_out = true;
        return fail_set(why, EBADMSG, "meanwhile at %d", (int)run->fail_meanwhile_at);
    }
    run->meanwhiles++;
    return 0;
}

static int consume(void *data, const struct compress_frame *frame, struct fail *why)
{
    struct run *run = data;
    assert_int_equal(run->meanwhiles, atomic_load(&run->consumed) + 1);
    while (atomic_load(&run->produced) < run->full)
        (void)sched_yield();
    if (run->wait_for_cancel) {
        struct pollfd poll_fd = {.fd = cancel_fd(run->cancel), .events = POLLIN};
        (void)poll(&poll_fd, 1, -1);
    }
    assert_false(run->failed_out);
    check_frame(run, frame);
    if (atomic_load(&run->consumed) == run->fail_out_at) {
        run->failed_out = true;
        return fail_set(why, ENOSPC, "out at %d", (int)run->fail_out_at);
    }
    atomic_fetch_add(&run->consumed, 1);
    return 0;
}

static int thread_count(void)
{
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    int count = 0;
    while (readdir(dir))
        count++;
    (void)closedir(dir);
    return count;
}

/* A thread that was joined may be seen in /proc a moment longer. */
static void check_threads(int before)
{
    while (thread_count() > before)
        (void)sched_yield();
}

static int run_it(struct run *run, struct fail *why)
{
    run->producer = pthread_self();
    struct compress_conf conf = {
        .codec = run->codec,
        .level = 3,
        .threads = run->threads,
        .chunk_max_bytes = CHUNK_BYTES,
        .produce = produce,
        .consume = consume,
        .meanwhile = meanwhile,
        .data = run,
        .cancel = run->cancel,
    };
    int before = thread_count();
    int r = compress_run(&conf, why);
    check_threads(before);
    return r;
}

static void must_run(struct run *run)
{
    struct fail why = FAIL_INIT;
    int r = run_it(run, &why);
    if (r < 0)
        fail_msg("%s", fail_text(&why, r));
    assert_int_equal(run->produced, run->count);
    assert_int_equal(run->consumed, run->count);
    assert_int_equal(run->meanwhiles, run->count + 1);
}

/* ---- what comes out ------------------------------------------------------------------ */

static void check_plain(const char *command, const struct run *run)
{
    FILE *plain = popen(command, "r");
    assert_non_null(plain);
    unsigned char expected[CHUNK_BYTES];
    unsigned char got[CHUNK_BYTES];
    for (uint64_t i = 0; i < run->count; i++) {
        size_t bytes = fill(number_of(run, i), expected);
        assert_int_equal(fread(got, 1, bytes, plain), bytes);
        assert_memory_equal(got, expected, bytes);
    }
    assert_int_equal(fread(got, 1, 1, plain), 0);
    assert_int_equal(pclose(plain), 0);
}

static void tools_unpack_it(void **state)
{
    (void)state;
    static const char *const tools[] = {"zstd", "gzip"};
    for (size_t i = 0; i < 2; i++) {
        char name[] = "/tmp/test-compress-XXXXXX";
        char command[64];
        struct run run = new_run(60);
        run.codec = codecs[i];
        run.fd = mkostemp(name, O_CLOEXEC);
        assert_true(run.fd >= 0);
        must_run(&run);
        (void)close(run.fd);
        (void)snprintf(command, sizeof(command), "%s -dcq <%s", tools[i], name);
        check_plain(command, &run);
        (void)unlink(name);
    }
}

/* Whatever the number of threads, and whatever they compressed before. */
static void the_same_chunk_gives_the_same_frame(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct run one = new_run(120);
        one.codec = codecs[i];
        one.threads = 1;
        must_run(&one);
        for (unsigned threads = 1; threads <= COMPRESS_THREADS_MAX; threads += 5) {
            struct run other = new_run(120);
            other.codec = codecs[i];
            other.threads = threads;
            other.order_seed = threads * 17;
            must_run(&other);
            assert_memory_equal(one.sums, other.sums, sizeof(one.sums));
        }
    }
}

static void nothing(void **state)
{
    (void)state;
    struct run run = new_run(0);
    must_run(&run);
}

static void as_many_threads_as_processors(void **state)
{
    (void)state;
    assert_in_range(compress_threads(), 1, COMPRESS_THREADS_MAX);
    struct run run = new_run(50);
    run.threads = compress_threads();
    must_run(&run);
}

/* Noise needs the most room; the edges of the levels. */
static void bounds(void **state)
{
    (void)state;
    static unsigned char noise[CHUNK_BYTES];
    (void)fill(0, noise);
    for (size_t i = 0; i < 2; i++) {
        for (int level = -1; level < 30; level += 2) {
            void *context = codecs[i]->open(level);
            assert_non_null(context);
            for (size_t bytes = 0; bytes <= CHUNK_BYTES; bytes = bytes * 3 + 1) {
                size_t room = codecs[i]->bound(bytes);
                cleanup_free void *out = malloc(room);
                uint32_t checksum;
                ssize_t n = codecs[i]->compress(context, noise, bytes, out, room, &checksum);
                assert_in_range(n, 1, room);
                if (room > 2 && n > 2)
                    assert_int_equal(
                        codecs[i]->compress(context, noise, bytes, out, (size_t)n / 2, &checksum),
                        -EIO);
            }
            codecs[i]->close(context);
        }
    }
}

/* ---- how it ends ----------------------------------------------------------------------- */

static void no_more_than_the_slots_at_a_time(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct run run = new_run(40);
        run.threads = threads;
        run.full = COMPRESS_SLOTS(threads); /* all are used, and produce asserts the rest */
        must_run(&run);
    }
}

static void failures_of_producing(void **state)
{
    (void)state;
    for (uint64_t at = 0; at < 40; at++) {
        struct fail why = FAIL_INIT;
        struct run run = new_run(40);
        run.fail_in_at = at;
        assert_int_equal(run_it(&run, &why), -ENXIO);
        assert_non_null(strstr(why.text, "in at "));
        assert_int_equal(run.produced, at);
    }
}

static void failures_of_consuming(void **state)
{
    (void)state;
    for (uint64_t at = 0; at < 40; at++) {
        struct fail why = FAIL_INIT;
        struct run run = new_run(40);
        run.fail_out_at = at;
        run.full = at == 0 ? 5 : 0;
        int r = run_it(&run, &why);
        assert_int_equal(r, -ENOSPC);
        assert_non_null(strstr(why.text, "out at "));
        assert_int_equal(run.consumed, at);
    }
}

static void failures_meanwhile(void **state)
{
    (void)state;
    for (uint64_t at = 0; at <= 40; at++) {
        struct fail why = FAIL_INIT;
        struct run run = new_run(40);
        run.fail_meanwhile_at = at;
        int r = run_it(&run, &why);
        assert_int_equal(r, -EBADMSG);
        assert_non_null(strstr(why.text, "meanwhile at "));
        assert_int_equal(run.consumed, at);
    }
}

static void cancelled_by_the_producer(void **state)
{
    (void)state;
    for (uint64_t at = 0; at < 40; at++) {
        struct run run = new_run(40);
        struct cancel *cancel cleanup_cancel = cancel_new();
        run.cancel = cancel;
        run.cancel_at = at;
        run.wait_for_cancel = at < COMPRESS_SLOTS(4);
        assert_int_equal(run_it(&run, NULL), -EINTR);
    }
}

static void *cancel_when_full(void *data)
{
    struct run *run = data;
    while (atomic_load(&run->produced) < COMPRESS_SLOTS(run->threads))
        (void)sched_yield();
    cancel_raise(run->cancel);
    return NULL;
}

/* Everybody waits for somebody else, and the consumer for ever. */
static void cancelled_while_all_wait(void **state)
{
    (void)state;
    struct run run = new_run(40);
    struct cancel *cancel cleanup_cancel = cancel_new();
    run.cancel = cancel;
    run.wait_for_cancel = true;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_when_full, &run), 0);
    struct fail why = FAIL_INIT;
    int r = run_it(&run, &why);
    (void)pthread_join(thread, NULL);
    assert_int_equal(r, -EINTR);
    assert_true(run.consumed <= 1);
}

static void cancelled_before(void **state)
{
    (void)state;
    struct run run = new_run(40);
    struct cancel *cancel cleanup_cancel = cancel_new();
    run.cancel = cancel;
    cancel_raise(cancel);
    assert_int_equal(run_it(&run, NULL), -EINTR);
    assert_int_equal(run.produced, 0);
}

static void *no_work(void *data)
{
    return data;
}

/* A sanitizer starts a thread of its own with the first one. */
static int have_threads(void **state)
{
    (void)state;
    pthread_t thread;
    return pthread_create(&thread, NULL, no_work, NULL) || pthread_join(thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tools_unpack_it),
        cmocka_unit_test(the_same_chunk_gives_the_same_frame),
        cmocka_unit_test(nothing),
        cmocka_unit_test(as_many_threads_as_processors),
        cmocka_unit_test(bounds),
        cmocka_unit_test(no_more_than_the_slots_at_a_time),
        cmocka_unit_test(failures_of_producing),
        cmocka_unit_test(failures_of_consuming),
        cmocka_unit_test(failures_meanwhile),
        cmocka_unit_test(cancelled_by_the_producer),
        cmocka_unit_test(cancelled_while_all_wait),
        cmocka_unit_test(cancelled_before),
    };
    return cmocka_run_group_tests(tests, have_threads, NULL);
}
