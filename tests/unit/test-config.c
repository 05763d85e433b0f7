/*
 * What src/config promises: everything that a file says is either in the struct or a fault with the right text
 * and line, what is printed reads back the same, and nothing that inih would cut passes.
 */
#include "unit.h"

#include "base/span.h"
#include "config/config.h"
#include "config/keys.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>
#include <syslog.h>

/* ---- files: each test has a folder of its own as working directory, so that paths in faults are short ---- */

#define MAIN "t.conf"

static char folder[] = "/tmp/test-config-XXXXXX";
static int top_fd = -1;

static void enter(void)
{
        (void)unsetenv("RUNTIME_DIRECTORY");
        (void)unsetenv("STATE_DIRECTORY");
        top_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)strcpy(folder, "/tmp/test-config-XXXXXX");
        ck_assert(mkdtemp(folder) && chdir(folder) == 0 && mkdir(MAIN ".d", 0700) == 0);
}

static void leave(void)
{
        char command[64];

        ck_assert_int_eq(fchdir(top_fd), 0);
        top_fd = fd_close(top_fd);
        (void)snprintf(command, sizeof(command), "rm -rf %s", folder);
        ck_assert_int_eq(system(command), 0);
}

static void write_bytes(const char *path, const char *text, size_t length)
{
        FILE *file = fopen(path, "we");

        ck_assert_ptr_nonnull(file);
        ck_assert_uint_eq(fwrite(text, 1, length, file), length);
        ck_assert_int_eq(fclose(file), 0);
}

static void write_file(const char *path, const char *text)
{
        write_bytes(path, text, strlen(text));
}

static struct config *load_file(const char *path)
{
        _cleanup_strv_free_ char **faults = NULL;
        struct config *config = NULL;

        int r = config_load(path, &config, &faults);
        ck_assert_msg(r == 0, "%s", faults ? faults[0] : strerror(-r));
        ck_assert_ptr_null(faults);
        return config;
}

static struct config *load(const char *text)
{
        write_file(MAIN, text);
        return load_file(MAIN);
}

/* Loads MAIN; its faults must be `expected`, one a line. */
static void assert_faults(const char *what, const char *expected)
{
        _cleanup_strv_free_ char **faults = NULL;
        struct config *config = NULL;
        char all[4096] = "";

        int r = config_load(MAIN, &config, &faults);
        for (size_t i = 0; faults && faults[i]; i++)
                (void)snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i > 0 ? "\n" : "",
                               faults[i]);
        ck_assert_msg(streq(all, expected), "\n%s\n-- gave --\n%s\n-- instead of --\n%s", what, all,
                      expected);
        ck_assert_int_eq(r, CONFIG_E_INVALID);
        ck_assert_ptr_null(config);
}

static char *print(const struct config *config)
{
        char *text = NULL;
        size_t length;
        FILE *file = open_memstream(&text, &length);

        ck_assert_int_eq(config_print(config, file), 0);
        ck_assert_int_eq(fclose(file), 0);
        return text;
}

/* ---- a whole file ---- */

/* The example of interface.md without its remarks, with what this version has. */
static const char example[] = "[daemon]\n"
                              "max_connections = auto\n"
                              "runtime_directory = /run/tetherd\n"
                              "state_directory = /var/lib/tetherd\n"
                              "preserve = restart\n"
                              "drain_timeout = 30s\n"
                              "log_target = auto\n"
                              "log_level = info\n"
                              "log_events = all\n"
                              "log_queue = 16384\n"
                              "\n"
                              "[listener:presence]\n"
                              "enabled = yes\n"
                              "listen = [::]:7400\n"
                              "v6only = no\n"
                              "handler = discard\n"
                              "handler_timeout = 30s\n"
                              "resources = workdir, session\n"
                              "backlog = 4096\n"
                              "reuse_port = no\n"
                              "nodelay = yes\n"
                              "socket_mode = 0600\n"
                              "max_connections = infinity\n"
                              "max_connections_per_source = infinity\n"
                              "accept_rate_per_source = infinity\n"
                              "allow =\n"
                              "deny =\n"
                              "proxy_protocol = no\n"
                              "proxy_from =\n"
                              "hello = no\n"
                              "hello_max = 128\n"
                              "handshake_timeout = 10s\n"
                              "greeting =\n"
                              "refusal =\n"
                              "idle_timeout = infinity\n"
                              "half_close = close\n"
                              "half_close_timeout = infinity\n"
                              "detect_within = 60s\n"
                              "keepalive_idle = auto\n"
                              "keepalive_interval = auto\n"
                              "keepalive_count = auto\n"
                              "user_timeout = auto\n"
                              "max_age = infinity\n"
                              "receive_buffer =\n"
                              "send_buffer =\n"
                              "\n"
                              "[resource:workdir]\n"
                              "type = directory\n"
                              "path = /run/tetherd/connections/%i\n"
                              "mode = 0700\n"
                              "\n"
                              "[resource:session]\n"
                              "type = exec\n"
                              "load = /bin/sh %i %{workdir}\n"
                              "release = /bin/sh %i\n"
                              "on_load_failure = nothing\n"
                              "persistent = no\n"
                              "load_timeout = 30s\n"
                              "release_timeout = 30s\n"
                              "queue_timeout = infinity\n"
                              "release_attempts = 3\n"
                              "max_concurrent = 16\n";

static void assert_daemon_defaults(const struct daemon_config *d)
{
        ck_assert_uint_eq(d->max_connections, 0);
        ck_assert_str_eq(d->runtime_directory, "/run/tetherd");
        ck_assert_str_eq(d->state_directory, "/var/lib/tetherd");
        ck_assert_int_eq(d->preserve, PRESERVE_RESTART);
        ck_assert_uint_eq(d->drain_timeout, 30 * USEC_PER_SEC);
        ck_assert_int_eq(d->log.target, LOG_TARGET_AUTO);
        ck_assert_int_eq(d->log.level, LOG_INFO);
        ck_assert_int_eq(d->log.events, LOG_EVENTS_ALL);
        ck_assert_uint_eq(d->log.n_queue, 16384);
}

static void assert_listener_defaults(const struct listener_config *l)
{
        ck_assert(l->enabled && !l->v6only && !l->reuse_port && l->nodelay && !l->hello);
        ck_assert_int_eq(l->handler, HANDLER_DISCARD);
        ck_assert_ptr_null(l->plugin);
        ck_assert_uint_eq(l->handler_timeout, 30 * USEC_PER_SEC);
        ck_assert_int_eq(l->backlog, 4096);
        ck_assert_uint_eq(l->socket_mode, 0600);
        ck_assert(l->socket_user == (uid_t)-1 && l->socket_group == (gid_t)-1);
        ck_assert_uint_eq(l->max_connections, UINT64_MAX);
        ck_assert_uint_eq(l->max_connections_per_source, UINT64_MAX);
        ck_assert_uint_eq(l->accept_rate_per_source, UINT64_MAX);
        ck_assert(l->allow.n == 0 && l->deny.n == 0 && !l->proxy_protocol && l->proxy_from.n == 0);
        ck_assert_uint_eq(l->hello_max, 128);
        ck_assert_uint_eq(l->handshake_timeout, 10 * USEC_PER_SEC);
        ck_assert_str_eq(l->greeting, "");
        ck_assert_str_eq(l->refusal, "");
        ck_assert_uint_eq(l->idle_timeout, USEC_INFINITY);
        ck_assert_int_eq(l->half_close, HALF_CLOSE_CLOSE);
        ck_assert_uint_eq(l->half_close_timeout, USEC_INFINITY);
        ck_assert_uint_eq(l->detect_within, 60 * USEC_PER_SEC);
        ck_assert_uint_eq(l->keepalive_idle, 15 * USEC_PER_SEC);
        ck_assert_uint_eq(l->keepalive_interval, 5 * USEC_PER_SEC);
        ck_assert_uint_eq(l->keepalive_count, 9);
        ck_assert_uint_eq(l->user_timeout, 30 * USEC_PER_SEC);
        ck_assert_uint_eq(l->max_age, USEC_INFINITY);
        ck_assert_uint_eq(l->receive_buffer, 0);
        ck_assert_uint_eq(l->send_buffer, 0);
}

static void assert_resource_defaults(const struct resource_config *r)
{
        ck_assert(r->user == (uid_t)-1 && r->group == (gid_t)-1 && !r->user_name && !r->home);
        ck_assert_int_eq(r->on_load_failure, LOAD_FAILURE_NOTHING);
        ck_assert(!r->persistent);
        ck_assert_uint_eq(r->load_timeout, 30 * USEC_PER_SEC);
        ck_assert_uint_eq(r->release_timeout, 30 * USEC_PER_SEC);
        ck_assert_uint_eq(r->queue_timeout, USEC_INFINITY);
        ck_assert_uint_eq(r->release_attempts, 3);
        ck_assert_uint_eq(r->max_concurrent, 16);
}

static void assert_example(const struct config *config)
{
        assert_daemon_defaults(&config->daemon);
        ck_assert_uint_eq(config->n_listeners, 1);
        const struct listener_config *l = config->listeners[0];
        ck_assert_str_eq(l->name, "presence");
        ck_assert_uint_eq(l->n_endpoints, 1);
        ck_assert_str_eq(l->endpoints[0].text, "[::]:7400");
        assert_listener_defaults(l);
        ck_assert_uint_eq(config->n_resources, 2);
        ck_assert_uint_eq(l->n_resources, 2);
        for (size_t i = 0; i < 2; i++) {
                ck_assert_ptr_eq(l->resources[i], config->resources[i]);
                assert_resource_defaults(l->resources[i]);
        }
        const struct resource_config *directory = l->resources[0], *exec = l->resources[1];
        ck_assert_str_eq(directory->name, "workdir");
        ck_assert_int_eq(directory->kind, RESOURCE_DIRECTORY);
        ck_assert_str_eq(directory->path, "/run/tetherd/connections/%i");
        ck_assert_uint_eq(directory->mode, 0700);
        ck_assert(!directory->load && !directory->release && !directory->environment);
        ck_assert_str_eq(exec->name, "session");
        ck_assert_int_eq(exec->kind, RESOURCE_EXEC);
        ck_assert_ptr_null(exec->path);
        ck_assert_uint_eq(strv_length(exec->load), 3);
        ck_assert_str_eq(exec->load[2], "%{workdir}");
        ck_assert_uint_eq(strv_length(exec->release), 2);
        ck_assert(exec->environment && !exec->environment[0]);
        ck_assert_str_eq(exec->working_directory, "/");
        ck_assert_ptr_eq(config_find_listener(config, "presence"), l);
        ck_assert_ptr_eq(config_find_resource(config, "session"), exec);
        ck_assert_ptr_null(config_find_listener(config, "session"));
        ck_assert_ptr_null(config_find_resource(config, "presence"));
}

START_TEST(test_example)
{
        enter();
        _cleanup_(config_unrefp) struct config *config = load(example);
        assert_example(config);

        /* Every key was said with its default: what is printed differs in nothing from the defaults. */
        _cleanup_(config_unrefp) struct config *bare =
                load("[listener:presence]\nlisten=[::]:7400\nresources=workdir, session\n"
                     "[resource:workdir]\ntype=directory\npath=/run/tetherd/connections/%i\n"
                     "[resource:session]\ntype=exec\nload = /bin/sh %i %{workdir}\nrelease = /bin/sh %i\n");
        assert_example(bare);
        _cleanup_free_ char *a = print(config), *b = print(bare);
        ck_assert_str_eq(a, b);
        leave();
}
END_TEST

/* Nothing at its default. */
static const char rich[] = "[daemon]\n"
                           "max_connections = 1000\n"
                           "runtime_directory = /tmp/run\n"
                           "state_directory = /tmp/state\n"
                           "preserve = no\n"
                           "drain_timeout = 1min 30s\n"
                           "log_target = stderr\n"
                           "log_level = debug\n"
                           "log_events = problems\n"
                           "log_queue = 1\n"
                           "[listener:a]\n"
                           "enabled = off\n"
                           "listen = 127.0.0.1:1 [::1]:1, /run/x.sock,@y\n"
                           "v6only = on\n"
                           "handler = echo\n"
                           "resources = one two\n"
                           "backlog = 7\n"
                           "reuse_port = 1\n"
                           "nodelay = false\n"
                           "socket_mode = 0666\n"
                           "socket_user = root\n"
                           "socket_group = root\n"
                           "max_connections = 5\n"
                           "max_connections_per_source = 4\n"
                           "accept_rate_per_source = 4294967295\n"
                           "allow = 10.0.0.0/8, uid:7 ::ffff:192.0.2.0/120\n"
                           "  \"group:root\"\n"
                           "deny = 10.1.2.3\n"
                           "hello = true\n"
                           "hello_max = 64\n"
                           "handshake_timeout = 500ms\n"
                           "greeting = HELLO  %h, %i at %{one} = 100%%\n"
                           "refusal = BUSY %c %i %l %a %p %h %%\n"
                           "idle_timeout = 2\n"
                           "half_close = keep\n"
                           "half_close_timeout = 1h\n"
                           "detect_within = 6500ms\n"
                           "keepalive_idle = 3s\n"
                           "keepalive_interval = 2\n"
                           "keepalive_count = 127\n"
                           "user_timeout = 1500ms\n"
                           "max_age = 1d\n"
                           "receive_buffer = 64K\n"
                           "send_buffer = 1M\n"
                           "[resource:one]\n"
                           "type = directory\n"
                           "path = /tmp/%l-%h\n"
                           "mode = 2770\n"
                           "user = root\n"
                           "[resource:two]\n"
                           "type = exec\n"
                           "load = sh -c \"a  b\" 'c' %{one}\n"
                           "user = 0\n"
                           "group = root\n"
                           "environment = A=b, \"C=d  e\" _F=%i\n"
                           "working_directory = /tmp\n"
                           "on_load_failure = release\n"
                           "load_timeout = 1ms\n"
                           "release_timeout = infinity\n"
                           "queue_timeout = 5s\n"
                           "release_attempts = 1\n"
                           "max_concurrent = 2\n"
                           "[resource:three]\n"
                           "type = none\n";

START_TEST(test_rich)
{
        enter();
        _cleanup_(config_unrefp) struct config *config = load(rich);
        const struct daemon_config *d = &config->daemon;
        ck_assert_uint_eq(d->max_connections, 1000);
        ck_assert_str_eq(d->runtime_directory, "/tmp/run");
        ck_assert_str_eq(d->state_directory, "/tmp/state");
        ck_assert_int_eq(d->preserve, PRESERVE_NO);
        ck_assert_uint_eq(d->drain_timeout, 90 * USEC_PER_SEC);
        ck_assert_int_eq(d->log.target, LOG_TARGET_STDERR);
        ck_assert_int_eq(d->log.level, LOG_DEBUG);
        ck_assert_int_eq(d->log.events, LOG_EVENTS_PROBLEMS);
        ck_assert_uint_eq(d->log.n_queue, 1);

        const struct listener_config *l = config_find_listener(config, "a");
        ck_assert(!l->enabled && l->v6only && l->reuse_port && !l->nodelay && l->hello);
        ck_assert_uint_eq(l->n_endpoints, 4);
        ck_assert_int_eq(l->endpoints[2].kind, ENDPOINT_UNIX);
        ck_assert_int_eq(l->endpoints[3].kind, ENDPOINT_ABSTRACT);
        ck_assert_int_eq(l->handler, HANDLER_ECHO);
        ck_assert_uint_eq(l->n_resources, 2);
        ck_assert_int_eq(l->backlog, 7);
        ck_assert_uint_eq(l->socket_mode, 0666);
        ck_assert(l->socket_user == 0 && l->socket_group == 0);
        ck_assert_uint_eq(l->max_connections, 5);
        ck_assert_uint_eq(l->max_connections_per_source, 4);
        ck_assert_uint_eq(l->accept_rate_per_source, UINT32_MAX);
        ck_assert_uint_eq(l->allow.n, 4);
        ck_assert(l->allow.items[1].kind == RULE_USER && l->allow.items[1].id == 7);
        ck_assert(l->allow.items[2].cidr.network.family == AF_INET && l->allow.items[2].cidr.n_bits == 24);
        ck_assert(l->allow.items[3].kind == RULE_GROUP && l->allow.items[3].id == 0);
        ck_assert(l->deny.n == 1 && l->deny.items[0].cidr.n_bits == 32);
        ck_assert_uint_eq(l->hello_max, 64);
        ck_assert_uint_eq(l->handshake_timeout, 500 * USEC_PER_MSEC);
        ck_assert_str_eq(l->greeting, "HELLO  %h, %i at %{one} = 100%%");
        ck_assert_str_eq(l->refusal, "BUSY %c %i %l %a %p %h %%");
        ck_assert_uint_eq(l->idle_timeout, 2 * USEC_PER_SEC);
        ck_assert_int_eq(l->half_close, HALF_CLOSE_KEEP);
        ck_assert_uint_eq(l->half_close_timeout, 3600 * USEC_PER_SEC);
        ck_assert_uint_eq(l->detect_within, 6500 * USEC_PER_MSEC);
        ck_assert_uint_eq(l->keepalive_idle, 3 * USEC_PER_SEC);
        ck_assert_uint_eq(l->keepalive_interval, 2 * USEC_PER_SEC);
        ck_assert_uint_eq(l->keepalive_count, 127);
        ck_assert_uint_eq(l->user_timeout, 1500 * USEC_PER_MSEC);
        ck_assert_uint_eq(l->max_age, 86400 * USEC_PER_SEC);
        ck_assert_uint_eq(l->receive_buffer, 65536);
        ck_assert_uint_eq(l->send_buffer, 1048576);

        const struct passwd *root = getpwuid(0);
        const struct resource_config *one = l->resources[0], *two = l->resources[1];
        ck_assert_str_eq(one->path, "/tmp/%l-%h");
        ck_assert_uint_eq(one->mode, 02770);
        ck_assert(one->user == 0 && one->group == root->pw_gid);
        ck_assert_str_eq(one->user_name, "root");
        ck_assert_uint_eq(strv_length(two->load), 5);
        ck_assert_str_eq(two->load[2], "a  b");
        ck_assert(two->release && !two->release[0]);
        ck_assert(two->user == 0 && two->group == 0);
        ck_assert_str_eq(two->user_name, "root");
        ck_assert_str_eq(two->home, root->pw_dir);
        ck_assert_uint_eq(strv_length(two->environment), 3);
        ck_assert_str_eq(two->environment[1], "C=d  e");
        ck_assert_str_eq(two->working_directory, "/tmp");
        ck_assert_int_eq(two->on_load_failure, LOAD_FAILURE_RELEASE);
        ck_assert_uint_eq(two->load_timeout, USEC_PER_MSEC);
        ck_assert_uint_eq(two->release_timeout, USEC_INFINITY);
        ck_assert_uint_eq(two->queue_timeout, 5 * USEC_PER_SEC);
        ck_assert_uint_eq(two->release_attempts, 1);
        ck_assert_uint_eq(two->max_concurrent, 2);
        ck_assert_int_eq(config->resources[2]->kind, RESOURCE_NONE);
        assert_resource_defaults(config->resources[2]);

        /* A later file whose values are empty takes all of it back. */
        write_file(MAIN ".d/1.conf",
                   "[daemon]\nmax_connections=\nruntime_directory=\nstate_directory=\npreserve=\n"
                   "drain_timeout=\nlog_target=\nlog_level=\nlog_events=\nlog_queue=\n"
                   "[listener:a]\nenabled=\nv6only=\nhandler=\nhandler_timeout=\nresources=\nbacklog=\nreuse_"
                   "port=\n"
                   "nodelay=\nsocket_mode=\nsocket_user=\nsocket_group=\nmax_connections=\nhello=\n"
                   "max_connections_per_source=\naccept_rate_per_source=\nallow=\ndeny=\n"
                   "hello_max=\nhandshake_timeout=\ngreeting=\nrefusal=\nidle_timeout=\nhalf_close=\n"
                   "half_close_timeout=\ndetect_within=\nkeepalive_idle=\nkeepalive_interval=\n"
                   "keepalive_count=\nuser_timeout=\nmax_age=\nreceive_buffer=\nsend_buffer=\n"
                   "[resource:two]\nuser=\ngroup=\nenvironment=\nworking_directory=\n"
                   "on_load_failure=\nload_timeout=\nrelease_timeout=\nqueue_timeout=\n"
                   "release_attempts=\nmax_concurrent=\n");
        _cleanup_(config_unrefp) struct config *reset = load_file(MAIN);
        assert_daemon_defaults(&reset->daemon);
        assert_listener_defaults(reset->listeners[0]);
        ck_assert_uint_eq(reset->listeners[0]->n_resources, 0);
        assert_resource_defaults(reset->resources[1]);
        ck_assert_str_eq(reset->resources[1]->working_directory, "/");
        leave();
}
END_TEST

/* The path of a plugin is judged, kept and printed; it goes when something else is said later. */
START_TEST(test_plugin)
{
        const union {
                const char *(*function)(void);
                void *address;
        } libc = { .function = gnu_get_libc_version };
        char text[512], expected[512];
        Dl_info info;

        ck_assert_int_ne(dladdr(libc.address, &info), 0); /* an object that nobody can write to */
        enter();
        (void)snprintf(text, sizeof(text),
                       "[listener:a]\nlisten=127.0.0.1:1\nhandler=plugin:%s\nhandler_timeout=1min\n",
                       info.dli_fname);
        _cleanup_(config_unrefp) struct config *config = load(text);
        ck_assert_int_eq(config->listeners[0]->handler, HANDLER_PLUGIN);
        ck_assert_str_eq(config->listeners[0]->plugin, info.dli_fname);
        ck_assert_uint_eq(config->listeners[0]->handler_timeout, 60 * USEC_PER_SEC);
        _cleanup_free_ char *printed = print(config);
        (void)snprintf(expected, sizeof(expected), "handler = plugin:%s\nhandler_timeout = 1min\n",
                       info.dli_fname);
        ck_assert_ptr_nonnull(strstr(printed, expected));
        _cleanup_(config_unrefp) struct config *again = load(printed);
        ck_assert_str_eq(again->listeners[0]->plugin, info.dli_fname);

        write_file(MAIN ".d/1.conf", "[listener:a]\nhandler=echo\n");
        _cleanup_(config_unrefp) struct config *other = load_file(MAIN);
        ck_assert_int_eq(other->listeners[0]->handler, HANDLER_ECHO);
        ck_assert_ptr_null(other->listeners[0]->plugin);
        ck_assert_uint_eq(other->listeners[0]->handler_timeout, 60 * USEC_PER_SEC);
        leave();
}
END_TEST

START_TEST(test_print_fixpoint)
{
        char long_list[4096];
        static const char *const texts[] = {
                example,
                rich,
                "",
                "[listener:a]\nlisten=127.0.0.1:1\ndetect_within=infinity\n",
                "[listener:a]\nlisten=127.0.0.1:1\ndetect_within=18h\nuser_timeout=infinity\n",
                "[listener:a]\nlisten=127.0.0.1:1\nproxy_protocol=yes\nproxy_from=::1,127.0.0.0/8\nallow=::/"
                "0\n",
        };

        enter();
        (void)snprintf(long_list, sizeof(long_list), "[listener:long]\nlisten =\n");
        for (unsigned i = 1; i < 60; i++)
                (void)snprintf(long_list + strlen(long_list), sizeof(long_list) - strlen(long_list),
                               "  127.0.0.%u:7400, [::1]:%u\n", i, i);
        for (size_t i = 0; i <= ARRAY_SIZE(texts); i++) {
                _cleanup_(config_unrefp) struct config *config =
                        load(i < ARRAY_SIZE(texts) ? texts[i] : long_list);
                _cleanup_free_ char *once = print(config);
                _cleanup_(config_unrefp) struct config *again = load(once);
                _cleanup_free_ char *twice = print(again);
                ck_assert_str_eq(once, twice);
                for (size_t k = 0; k < n_keys; k++) {
                        char line[64];
                        (void)snprintf(line, sizeof(line), "\n%s =", keys[k].name);
                        ck_assert_msg(keys[k].section != SECTION_DAEMON || strstr(once, line), "%s",
                                      keys[k].name);
                        ck_assert_msg(keys[k].section != SECTION_LISTENER || !config->n_listeners ||
                                              strstr(once, line),
                                      "%s", keys[k].name);
                }
        }
        leave();
}
END_TEST

START_TEST(test_print_text)
{
        enter();
        _cleanup_(config_unrefp) struct config *config =
                load("[listener:a]\nlisten=127.0.0.1:1\ndetect_within=100\nresources=x\ngreeting = a   b\n"
                     "[resource:x]\ntype=exec\nload=\n  sh\n  -c \"exit  0\"\nrelease = sh\nrelease_timeout "
                     "= 90\n");
        _cleanup_free_ char *text = print(config);
        ck_assert_ptr_nonnull(
                strstr(text, "\ndetect_within = 1min 40s\nkeepalive_idle = 25s\nkeepalive_interval = 8s\n"
                             "keepalive_count = 9\nuser_timeout = 50s\n"));
        ck_assert_ptr_nonnull(strstr(text, "\ngreeting = a   b\n"));
        ck_assert_ptr_nonnull(
                strstr(text, "\n[resource:x]\ntype = exec\nload = sh -c \"exit  0\"\nrelease = sh\nuser =\n"
                             "group =\nenvironment =\nworking_directory = /\non_load_failure = nothing\n"
                             "persistent = no\nload_timeout = 30s\nrelease_timeout = 1min 30s\n"
                             "queue_timeout = infinity\nrelease_attempts = 3\nmax_concurrent = 16\n"));
        ck_assert(startswith(text, "[daemon]\nmax_connections = auto\nruntime_directory = /run/tetherd\n"));

        FILE *full = fopen("/dev/full", "we");
        ck_assert_int_eq(config_print(config, full), -EIO);
        (void)fclose(full);
        leave();
}
END_TEST

static void assert_comes_back(const char *text, size_t length)
{
        _cleanup_(config_unrefp) struct config *config = load(text);
        _cleanup_free_ char *printed = print(config);
        _cleanup_(config_unrefp) struct config *again = load(printed);

        ck_assert_uint_eq(strlen(config->listeners[0]->greeting), length);
        ck_assert_str_eq(again->listeners[0]->greeting, config->listeners[0]->greeting);
}

/* A value of words that fill lines to the last byte still comes back, whatever the cut. */
START_TEST(test_print_wrap)
{
        enter();
        for (size_t length = 170; length <= 197; length++) {
                char text[1024] = "[listener:a]\nlisten=127.0.0.1:1\ngreeting=\n", word[256];
                memset(word, 'x', length);
                word[length] = '\0';
                for (unsigned i = 0; i < 3; i++)
                        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), " %s\n", word);
                assert_comes_back(text, 3 * length + 2);
        }
        leave();
}
END_TEST

/* A '#' inside a value must not come to stand at the start of a line. */
START_TEST(test_print_wrap_hash)
{
        char text[1024] = "[listener:a]\nlisten=127.0.0.1:1\n"
                          "greeting = #",
             hashes[256] = "";

        enter();
        for (unsigned i = 0; i < 85; i++)
                (void)strcat(hashes, " #");
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s\n  x%s\n  x%s\n", hashes, hashes,
                       hashes);
        assert_comes_back(text, 3 * 171 + 2);
        leave();
}
END_TEST

/* Nor may one that it begins with, where only a line without blanks has room for it. */
START_TEST(test_print_first_hash)
{
        enter();
        for (size_t length = 185; length <= 189; length++) {
                char text[1024], word[256];

                memset(word, 'x', length);
                word[0] = '#';
                word[length] = '\0';
                (void)snprintf(text, sizeof(text), "[listener:a]\nlisten=127.0.0.1:1\ngreeting=%s\n", word);
                assert_comes_back(text, length);
                (void)strcat(text, " and more\n more\n");
                assert_comes_back(text, length + strlen(" and more more"));
        }
        leave();
}
END_TEST

START_TEST(test_keepalive)
{
        static const struct {
                const char *keys;
                uint64_t idle, interval, user_timeout;
                unsigned count;
        } rows[] = {
                { "detect_within = 6s\n", 1, 1, 3000000, 5 },
                { "detect_within = 7s\n", 1, 1, 3500000, 6 },
                { "detect_within = 18h\n", 16200, 5400, UINT64_C(32400000000), 9 },
                { "detect_within = 1h\nkeepalive_interval = 1s\n", 900, 1, UINT64_C(1800000000), 127 },
                { "keepalive_idle = 2min\n", 120, 5, 30000000, 1 },
                { "keepalive_interval = infinity\n", 15, UINT64_MAX, 30000000, 1 },
                { "detect_within = infinity\n", UINT64_MAX, UINT64_MAX, USEC_INFINITY, 0 },
                { "detect_within = infinity\nkeepalive_idle = 9s\n", 9, UINT64_MAX, USEC_INFINITY, 0 },
                { "detect_within = infinity\nuser_timeout = 1s\nkeepalive_count = 4\n", UINT64_MAX,
                  UINT64_MAX, 1000000, 4 },
                { "user_timeout = infinity\n", 15, 5, USEC_INFINITY, 9 },
        };

        enter();
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char text[256];
                (void)snprintf(text, sizeof(text), "[listener:a]\nlisten = 127.0.0.1:1\n%s", rows[i].keys);
                _cleanup_(config_unrefp) struct config *config = load(text);
                const struct listener_config *l = config->listeners[0];
                ck_assert_uint_eq(l->keepalive_idle,
                                  rows[i].idle == UINT64_MAX ? UINT64_MAX : rows[i].idle * USEC_PER_SEC);
                ck_assert_uint_eq(l->keepalive_interval, rows[i].interval == UINT64_MAX
                                                                 ? UINT64_MAX
                                                                 : rows[i].interval * USEC_PER_SEC);
                ck_assert_uint_eq(l->user_timeout, rows[i].user_timeout);
                ck_assert_uint_eq(l->keepalive_count, rows[i].count);
        }
        leave();
}
END_TEST

/* ---- faults ---- */

#define L              "[listener:a]\nlisten = 127.0.0.1:1\n"
#define U              "[listener:a]\nlisten = /run/x.sock\n"
#define X              "[resource:x]\ntype = exec\nload = sh\n"
#define P              "[resource:x]\ntype = pool\nitems = "
#define NOT_OF_SYSTEMD " has no effect on sockets of systemd: set "
#define SHARED         ": a helper is started once, for all connections: of the specifiers, only %% has a meaning"
#define CUT                                                                                                \
        "a ';' after a blank or at the start of a value begins a comment, which cuts the value: comments " \
        "stand on lines "                                                                                  \
        "of their own"

static const struct {
        const char *text, *faults;
} fault_rows[] = {
        /* the lines of a file */
        { "key = 1\n", MAIN ":1: key stands before the first [section]" },
        { "[daemon]\nnonsense\n", MAIN ":2: this is neither a comment, nor a [section], nor key = value" },
        { "[daemon]\n= 5\n", MAIN ":2: the key before the '=' is missing" },
        { "[daemon]\n : 5\n", MAIN ":2: the key before the ':' is missing" },
        { "[daemon\nlog_level = no\n", MAIN ":1: the ']' of the section is missing" },
        { "[daemon] x\nlog_level = no\n",
          MAIN ":1: nothing may follow the ']' of a section\n" MAIN
               ":2: log_level = no: it must be one of debug, info, notice, warning, err" },
        { "[daemon] ; x\n", MAIN ":1: nothing may follow the ']' of a section" },
        { L "[daemon] ; x\nlog_level = info\nxyzzy = 1\n",
          MAIN ":3: nothing may follow the ']' of a section\n" MAIN ":5: unknown key 'xyzzy' in [daemon]" },
        { "[dae ;mon] ; x\nlog_level = no\n",
          MAIN ":1: nothing may follow the ']' of a section\n" MAIN ":1: " CUT },
        { "[dae ;mon]\n", MAIN ":1: " CUT },
        { "[daemon]\nlog_level = info ; x\n", MAIN ":2: " CUT },
        { "[daemon]\nlog_level = info\t;x\n  more\n", MAIN ":2: " CUT },
        { "[daemon]\nlog_level =;info\n", MAIN ":2: " CUT },
        { "[daemon]\nlog_level = ;info\n", MAIN ":2: " CUT },
        { "[daemon]\nlog_level ;x = info\n", MAIN ":2: " CUT },
        { L "greeting = a\n  b ;c\n", MAIN ":4: " CUT },
        { "[daemon]\nlog_level = \x01info\n", MAIN ":2: a control character (0x01) in the line" },
        { "[daemon]\nlog_level = in\rfo\n", MAIN ":2: a control character (0x0d) in the line" },
        { "[daemon]\nlog_level = in\x7f\n  x\nlog_level = info\n",
          MAIN ":2: a control character (0x7f) in the line" },

        /* sections */
        { "[demon]\nx = 1\n", MAIN ":1: unknown section [demon]; did you mean [daemon]?" },
        { "[listner:x]\n", MAIN ":1: unknown section [listner:x]; did you mean [listener:x]?" },
        { "[ressource:x]\n", MAIN ":1: unknown section [ressource:x]; did you mean [resource:x]?" },
        { "[something]\n\n[other:a]\n",
          MAIN ":1: unknown section [something]\n" MAIN ":3: unknown section [other:a]" },
        { "[]\n", MAIN ":1: unknown section []" },
        { "[daemon:x]\n", MAIN ":1: [daemon] takes no name" },
        { "[listener]\n", MAIN ":1: a listener needs a name: [listener:NAME]" },
        { "[resource]\n", MAIN ":1: a resource needs a name: [resource:NAME]" },
        { "[listener:]\n", MAIN
          ":1: '' cannot be the name of a listener: it must be a-z, then a-z, 0-9 or _, at most 32 in all" },
        { "[listener:Web]\n", MAIN ":1: 'Web' cannot be the name of a listener: it must be a-z, then a-z, "
                                   "0-9 or _, at most 32 in all" },
        { "[resource:1a]\n", MAIN ":1: '1a' cannot be the name of a resource: it must be a-z, then a-z, 0-9 "
                                  "or _, at most 32 in all" },
        { "[resource:a-b]\n", MAIN ":1: 'a-b' cannot be the name of a resource: it must be a-z, then a-z, "
                                   "0-9 or _, at most 32 in all" },
        { "[listener:a23456789012345678901234567890123]\n",
          MAIN ":1: 'a23456789012345678901234567890123' cannot be the name of a listener: it must be a-z, "
               "then a-z, "
               "0-9 or _, at most 32 in all" },

        /* keys */
        { L "handshake_timout = 1\n",
          MAIN ":3: unknown key 'handshake_timout' in [listener:a]; did you mean 'handshake_timeout'?" },
        { L "xyzzy = 1\n", MAIN ":3: unknown key 'xyzzy' in [listener:a]" },
        { "[daemon]\nloglevel = info\n",
          MAIN ":2: unknown key 'loglevel' in [daemon]; did you mean 'log_level'?" },
        { X "lod = sh\n", MAIN ":4: unknown key 'lod' in [resource:x]; did you mean 'load'?" },
        { X "laod = sh\n", MAIN ":4: unknown key 'laod' in [resource:x]; did you mean 'load'?" },
        { L "hlelo = yes\nalolw = ::1\n",
          MAIN ":3: unknown key 'hlelo' in [listener:a]; did you mean 'hello'?\n" MAIN
               ":4: unknown key 'alolw' in [listener:a]; did you mean 'allow'?" },
        { "[resource:x]\ntyep = exec\n",
          MAIN ":1: [resource:x] has no type\n" MAIN
               ":2: unknown key 'tyep' in [resource:x]; did you mean 'type'?" },
        { "[resource:x]\ntyp = exec\n", MAIN ":1: [resource:x] has no type\n" MAIN
                                             ":2: unknown key 'typ' in [resource:x]; did you mean 'type'?" },
        { "[daemon]\nlog_level = info\n\nlog_level = err\n",
          MAIN ":4: log_level is given twice in [daemon], first in line 2" },
        { "[daemon]\nlog_level = info\n" L "[daemon]\nlog_level = err\n",
          MAIN ":6: log_level is given twice in [daemon], first in line 2" },
        { "[resource:x]\ntype = none\ntype = exec\n",
          MAIN ":3: type is given twice in [resource:x], first in line 2" },
        { X "path = /tmp/%i\n", MAIN ":4: path does not belong to a resource of type exec" },
        { "[resource:x]\nload = sh\ntype = none\n",
          MAIN ":2: load does not belong to a resource of type none" },
        { X "items = 1-5\n", MAIN ":4: items does not belong to a resource of type exec" },
        { X "mode = 0700\n", MAIN ":4: mode does not belong to a resource of type exec" },

        /* values */
        { L "nodelay = maybe\n",
          MAIN ":3: nodelay = maybe: it must be yes or no (true, false, on, off, 1, 0)" },
        { L "idle_timeout = 5x\n", MAIN
          ":3: idle_timeout = 5x: it must be a time such as 30s or 1min 30s, at least 1ms, or infinity" },
        { L "idle_timeout = 0\n",
          MAIN ":3: idle_timeout = 0: it must be a time such as 30s or 1min 30s, at least 1ms, or infinity" },
        { L "detect_within = 5s\n",
          MAIN ":3: detect_within = 5s: it must be a time such as 30s or 1min 30s, 6s to 18h, or infinity" },
        { L "detect_within = 19h\n",
          MAIN ":3: detect_within = 19h: it must be a time such as 30s or 1min 30s, 6s to 18h, or infinity" },
        { L "keepalive_idle = 1500ms\n", MAIN
          ":3: keepalive_idle = 1500ms: it must be whole seconds, 1s to 9h 6min 7s, or infinity, or auto" },
        { L "keepalive_interval = 32768\n", MAIN ":3: keepalive_interval = 32768: it must be whole seconds, "
                                                 "1s to 9h 6min 7s, or infinity, or auto" },
        { L "keepalive_count = 128\n",
          MAIN ":3: keepalive_count = 128: it must be a number, 1 to 127, or auto" },
        { L "user_timeout = 25d\n",
          MAIN ":3: user_timeout = 25d: it must be a time such as 30s or 1min 30s, 1ms to "
               "3w 3d 20h 31min 23s 647ms, or infinity, or auto" },
        { L "backlog = 0\n", MAIN ":3: backlog = 0: it must be a number, 1 to 2147483647" },
        { L "backlog = infinity\n", MAIN ":3: backlog = infinity: it must be a number, 1 to 2147483647" },
        { L "backlog = 99999999999999999999\n",
          MAIN ":3: backlog = 99999999999999999999: it must be a number, 1 to 2147483647" },
        { L "max_connections = 0\n",
          MAIN ":3: max_connections = 0: it must be a number, 1 to 4294967295, or infinity" },
        { "[daemon]\nmax_connections = infinity\n",
          MAIN ":2: max_connections = infinity: it must be a number, 1 to 4294967295, or auto" },
        { L "max_connections = 5 \n", NULL },
        { L "receive_buffer = 64k\n",
          MAIN ":3: receive_buffer = 64k: it must be a size such as 64K or 1M, 1 to 1073741823" },
        { L "send_buffer = 2G\n",
          MAIN ":3: send_buffer = 2G: it must be a size such as 64K or 1M, 1 to 1073741823" },
        { L "handler = eco\n", MAIN ":3: handler = eco: it must be one of discard, echo, plugin:" },
        { L "handler = plugin\n", MAIN ":3: handler = plugin: it must be one of discard, echo, plugin:" },
        { L "handler = plugin:x.so\n",
          MAIN ":3: handler = plugin:x.so: the plugin must be an absolute path" },
        { L "handler = plugin:\n", MAIN ":3: handler = plugin:: the plugin must be an absolute path" },
        { L "handler = plugin:/no/x.so\n",
          MAIN ":3: handler = plugin:/no/x.so: /no: No such file or directory" },
        { L "handler = plugin:/etc/passwd\n", MAIN ":3: handler = plugin:/etc/passwd: it is no ELF file" },
        { L "handler = plugin:/etc\nenabled = no\n",
          MAIN ":3: handler = plugin:/etc: it is no regular file" },
        { L "handler_timeout = 31s\n", NULL },
        { L "handler_timeout = infinity\n", NULL },
        { L "handler_timeout = x\n",
          MAIN ":3: handler_timeout = x: it must be a time such as 30s or 1min 30s, at least 1ms, or "
               "infinity" },
        { "[daemon]\nlog_level = warn\n",
          MAIN ":2: log_level = warn: it must be one of debug, info, notice, warning, err" },
        { L "socket_mode = 0888\n", MAIN ":3: socket_mode = 0888: it must be an octal mode, 0000 to 0777" },
        { L "socket_mode = 01777\n", MAIN ":3: socket_mode = 01777: it must be an octal mode, 0000 to 0777" },
        { L "socket_user = no-such-user\n", MAIN ":3: socket_user = no-such-user: there is no such user" },
        { L "socket_group = no-such-group\n",
          MAIN ":3: socket_group = no-such-group: there is no such group" },
        { X "user = 3999999999\n", MAIN ":4: user = 3999999999: there is no such user" },
        { X "group = -1\n", MAIN ":4: group = -1: there is no such group" },
        { "[daemon]\nruntime_directory = run\n",
          MAIN ":2: runtime_directory = run: it must be an absolute path" },
        { "[resource:x]\ntype = directory\npath = run/%i\n",
          MAIN ":3: path = run/%i: it must be an absolute path" },
        { "[resource:x]\ntype = exec\nload = \"sh\n",
          MAIN ":3: load = \"sh: the double quote is not closed" },
        { "[resource:x]\ntype = exec\nload = bin/sh\n",
          MAIN ":3: load = bin/sh: the program must be an absolute path, or a name without '/'" },
        { "[resource:x]\ntype = exec\nload = /bin/%h\n",
          MAIN ":3: load = /bin/%h: the program must be named without specifiers" },
        { X "environment = A\n", MAIN ":4: environment = A: it must be a list of NAME=value" },
        { X "environment = 1=2\n", MAIN ":4: environment = 1=2: it must be a list of NAME=value" },
        { X "environment = A=1 'B\n", MAIN ":4: environment = A=1 'B: the single quote is not closed" },
        { X "environment = TETHERD_X=1\n",
          MAIN ":4: environment = TETHERD_X=1: names that begin with TETHERD_ are tetherd's own" },
        { "[listener:a]\nlisten = 127.0.0.1:0, :80 [::1]:x @\n",
          MAIN ":2: listen = 127.0.0.1:0: the port must be 1 to 65535\n" MAIN
               ":2: listen = :80: the host must be a numeric address\n" MAIN
               ":2: listen = [::1]:x: the port must be 1 to 65535\n" MAIN
               ":2: listen = @: the name of the UNIX socket is missing" },
        { "[listener:a]\nlisten = \"x\n", MAIN ":2: listen = \"x: the double quote is not closed" },

        /* who may come in */
        { L "max_connections_per_source = 0\n",
          MAIN ":3: max_connections_per_source = 0: it must be a number, 1 to 4294967295, or infinity" },
        { L "accept_rate_per_source = 1.5\n",
          MAIN ":3: accept_rate_per_source = 1.5: it must be a number, 1 to 4294967295, or infinity" },
        { L "allow = 10.0.0.0/8 10.0.0.1/8, nobody\n  ::1/129\n",
          MAIN ":3: allow = 10.0.0.1/8: bits are set behind the prefix; did you mean 10.0.0.0/8?\n" MAIN
               ":3: allow = nobody: it must be an address or a CIDR such as 10.0.0.0/8, or for UNIX sockets "
               "uid:N, user:NAME, gid:N or group:NAME\n" MAIN
               ":3: allow = ::1/129: the prefix of an IPv6 address is /0 to /128" },
        { U "deny = user:no-such-user group:no-such-group uid:x\n",
          MAIN ":3: deny = user:no-such-user: there is no such user\n" MAIN
               ":3: deny = group:no-such-group: there is no such group\n" MAIN
               ":3: deny = uid:x: it must be a number, 0 to 4294967294" },
        { L "allow = \"::1\n", MAIN ":3: allow = \"::1: the double quote is not closed" },
        { L "allow = uid:0\ndeny = gid:0 ::1\n",
          MAIN ":3: allow: it names users or groups, but [listener:a] listens on no UNIX socket\n" MAIN
               ":4: deny: it names users or groups, but [listener:a] listens on no UNIX socket" },
        { U "allow = 0.0.0.0/0\ndeny = ::1 uid:0\n",
          MAIN ":3: allow: it names addresses, but [listener:a] listens on UNIX sockets only\n" MAIN
               ":4: deny: it names addresses, but [listener:a] listens on UNIX sockets only" },
        { U "allow = uid:0 user:root gid:0 group:root\n", NULL },
        { "[listener:a]\nlisten = @x *:1\nallow = uid:0\ndeny = ::/0\n", NULL },
        { "[listener:a]\nallow = uid:0\ndeny = ::/0\n", MAIN ":1: [listener:a] has no listen" },
        { "[listener:a]\nlisten = systemd:x\nallow = uid:0 ::/0\n", NULL },
        { L "proxy_protocol = yes\nproxy_from = 192.0.2.7 2001:db8::/32\nallow = ::/0\n", NULL },
        { L "proxy_protocol = yes\n",
          MAIN ":3: proxy_protocol = yes needs proxy_from, the addresses of the proxies" },
        { L "proxy_from = 192.0.2.7\n", MAIN ":3: proxy_from has no effect without proxy_protocol = yes" },
        { L "proxy_protocol = yes\nproxy_from = uid:0 ::1 x ::1/0\n",
          MAIN ":4: proxy_from = uid:0: it must be an address or a CIDR\n" MAIN
               ":4: proxy_from = x: it must be an address or a CIDR such as 10.0.0.0/8, or for UNIX sockets "
               "uid:N, user:NAME, gid:N or group:NAME\n" MAIN
               ":4: proxy_from = ::1/0: bits are set behind the prefix; did you mean ::/0?" },
        /* sockets of systemd */
        { "[listener:a]\nlisten = systemd:web systemd:x.socket\n[listener:b]\nlisten = systemd:other\n",
          NULL },
        { "[listener:a]\nlisten = systemd:\n",
          MAIN ":2: listen = systemd:: the name after systemd: is missing" },
        { "[listener:a]\nlisten = systemd:web systemd:web\n[listener:b]\nlisten = systemd:web\n",
          MAIN ":2: listen: systemd:web is listed twice\n" MAIN
               ":4: listen: systemd:web is already taken by [listener:a]" },
        { "[listener:a]\nlisten = systemd:web\nbacklog = 4095\nv6only = yes\nreuse_port = yes\nsocket_mode = "
          "0666\n"
          "socket_user = root\nsocket_group = root\n",
          MAIN ":3: backlog" NOT_OF_SYSTEMD "Backlog= in the socket unit\n" MAIN ":4: v6only" NOT_OF_SYSTEMD
               "BindIPv6Only= in the socket unit\n" MAIN ":5: reuse_port" NOT_OF_SYSTEMD
               "ReusePort= in the socket unit\n" MAIN ":6: socket_mode" NOT_OF_SYSTEMD
               "SocketMode= in the socket unit\n" MAIN ":7: socket_user" NOT_OF_SYSTEMD
               "SocketUser= in the socket unit\n" MAIN ":8: socket_group" NOT_OF_SYSTEMD
               "SocketGroup= in the socket unit" },
        { "[listener:a]\nlisten = systemd:web\nbacklog = 4096\nv6only = off\nsocket_mode = 600\nsocket_user "
          "=\n",
          NULL },
        { "[listener:a]\nlisten = systemd:web, /s\nsocket_mode = 0666\n", NULL },
        { "[listener:a]\nlisten = systemd:web\nproxy_protocol = yes\nproxy_from = ::1\n", NULL },

        { "[listener:a]\nlisten = /s 127.0.0.1:1 @x\nproxy_protocol = yes\nproxy_from = ::1\n",
          MAIN ":2: listen: nobody could connect to /s: with proxy_protocol = yes only the addresses of "
               "proxy_from may\n" MAIN
               ":2: listen: nobody could connect to @x: with proxy_protocol = yes only the addresses of "
               "proxy_from may" },
        { L "refusal = %q %c\n", MAIN ":3: refusal: %q is not known here" },
        { L "refusal = %{x}\nresources = x\n" X, MAIN ":3: refusal: %{x} is not known here" },
        { L "refusal = %{}\n", MAIN ":3: refusal: %{} is not known here" },
        { L "refusal = %\n", MAIN ":3: refusal: a single % at the end; %% stands for it" },

        /* types */
        { "[resource:x]\ntype = unit\n", MAIN ":1: [resource:x] has no unit" },
        { "[resource:x]\ntype = helper\n", MAIN ":1: [resource:x] has no command" },
        { "[resource:x]\ntype = helper\ncommand = /nonexistent\n",
          MAIN ":3: command: there is no program /nonexistent" },
        { "[resource:x]\ntype = helper\ncommand = sh -c 100%%\nenvironment = A=100%%\n", NULL },
        { "[resource:x]\ntype = helper\ncommand = sh %i\nenvironment = A=%l B=1 C=%a\n",
          MAIN ":3: command: '%i'" SHARED "\n" MAIN ":4: environment: 'A=%l'" SHARED "\n" MAIN
               ":4: environment: 'C=%a'" SHARED },
        { X "persistent = yes\n", NULL },
        { X "persistent = maybe\n",
          MAIN ":4: persistent = maybe: it must be yes or no (true, false, on, off, 1, 0)" },

        /* pools */
        { "[resource:x]\ntype = pool\nitems = 1-5\nwhen_empty = wait\nmode = x\nitms = 3\n",
          MAIN ":5: mode does not belong to a resource of type pool\n" MAIN
               ":6: unknown key 'itms' in [resource:x]; did you mean 'items'?" },
        { P "a\nwhen_empty = wait\nwait_timeout = 10ms\n", NULL },
        { P "a\nwhen_empty = block\n", MAIN ":4: when_empty = block: it must be one of reject, wait" },
        { P "a\nwait_timeout = 0\n",
          MAIN ":4: wait_timeout = 0: it must be a time such as 30s or 1min 30s, at least 1ms, or infinity" },
        { P "\n", MAIN ":1: [resource:x] has no items" },
        { "[resource:x]\ntype = pool\n", MAIN ":1: [resource:x] has no items" },
        { P ",\n", MAIN ":3: items = ,: there is no item" },
        { P "a \"\"\n", MAIN ":3: items = a \"\": an item is empty" },
        { P "\"a\\tb\"\n", MAIN ":3: items = \"a\\tb\": an item has a control character" },
        { P "\"a\n", MAIN ":3: items = \"a: the double quote is not closed" },
        { P "5-1\n", MAIN ":3: items = 5-1: the range ends before it begins" },
        { P "a, 0-1000000\n", MAIN ":3: items = a, 0-1000000: the range is too long" },
        { P "a, 1-1000000\n", MAIN ":3: items = a, 1-1000000: there are too many items" },
        { P "1-3, 5, 3-4\n", MAIN ":3: items: '3' is there twice" },
        { P "a b a\n", MAIN ":3: items: 'a' is there twice" },
        { P "01-03, 3, 1-2\n", NULL },
        { L "reuse_port = yes\nresources = x\n" P "a\n", NULL },

        /* sections as a whole */
        { "\n[listener:a]\nnodelay = no\n", MAIN ":2: [listener:a] has no listen" },
        { "[listener:a]\nlisten =\n", MAIN ":1: [listener:a] has no listen" },
        { "[listener:a]\nlisten = ,\n", MAIN ":2: listen = ,: the list is empty" },
        { L "allow = , ,\ndeny = ,\nresources = ,\n",
          MAIN ":3: allow = , ,: the list is empty\n" MAIN ":4: deny = ,: the list is empty" },
        { L "proxy_protocol = yes\nproxy_from = ,\n", MAIN ":4: proxy_from = ,: the list is empty" },
        { "[resource:x]\n", MAIN ":1: [resource:x] has no type" },
        { "[resource:x]\ntype = foo\n",
          MAIN ":2: type = foo: it must be one of none, directory, exec, pool, process, "
               "unit, helper" },
        { "[resource:x]\ntype = directory\n", MAIN ":1: [resource:x] has no path" },
        { "[resource:x]\ntype = exec\n", MAIN ":1: [resource:x] has neither load nor release" },
        { "[resource:x]\ntype = exec\nrelease = sh\n", NULL },

        /* references */
        { L "resources = sesion, none\n[resource:session]\ntype = none\n",
          MAIN ":3: resources: there is no resource 'sesion'; did you mean 'session'?\n" MAIN
               ":3: resources: there is no resource 'none'" },
        { L "resources = x x\n" X, MAIN ":3: resources: 'x' is listed twice" },
        { L "resources = 'x\n" X, MAIN ":3: resources = 'x: the single quote is not closed" },
        { "[listener:a]\nlisten = 127.0.0.1:1, @x 127.0.0.1:1 [::ffff:127.0.0.1]:1\nreuse_port = yes\n",
          MAIN ":2: listen: 127.0.0.1:1 is listed twice\n" MAIN
               ":2: listen: [::ffff:127.0.0.1]:1 is listed twice" },
        { L "[listener:b]\nlisten = 127.0.0.1:1\nreuse_port = yes\n",
          MAIN ":4: listen: 127.0.0.1:1 is already taken by [listener:a], and not both have reuse_port" },
        { L "reuse_port = yes\n[listener:b]\nlisten = 127.0.0.1:1\nreuse_port = yes\n", NULL },
        { L "enabled = no\n[listener:b]\nlisten = 127.0.0.1:1\n", NULL },
        { L "[listener:b]\nlisten = 127.0.0.1:1\nenabled = no\n", NULL },
        { "[listener:a]\nlisten = [::]:5\n[listener:b]\nlisten = *:5 0.0.0.0:6 127.0.0.1:5\n",
          MAIN ":4: listen: *:5 is already taken by [listener:a], and not both have reuse_port" },
        { "[listener:a]\nlisten = /s @n\nreuse_port = yes\n[listener:b]\nlisten = @n /s\nreuse_port = yes\n",
          MAIN ":5: listen: @n is already taken by [listener:a]\n" MAIN
               ":5: listen: /s is already taken by [listener:a]" },

        /* specifiers */
        { L "greeting = %q\n", MAIN ":3: greeting: %q is not known here" },
        { L "greeting = %c\n", MAIN ":3: greeting: %c is not known here" },
        { L "greeting = 100%\n", MAIN ":3: greeting: a single % at the end; %% stands for it" },
        { L "greeting = %{}\n", MAIN ":3: greeting: %{} is not known here" },
        { L "greeting = %{x}\n", MAIN ":3: greeting: there is no resource 'x'" },
        { L "greeting = %{x}\n" X, MAIN ":3: greeting: %{x} is not among the listener's resources" },
        { L "greeting = %{x}\nresources = x\n" X, NULL },
        { X "environment = A=%{x A=%z\n",
          MAIN ":4: environment: %{ is not closed\n" MAIN ":4: environment: %z is not known here" },
        { "[resource:x]\ntype = exec\nload = sh %{worker} %{worker} %x\n[resource:workr]\ntype = none\n",
          MAIN ":3: load: %x is not known here\n" MAIN
               ":3: load: there is no resource 'worker'; did you mean 'workr'?" },
        { L "resources = x, y\n" X "release = sh %{y} %{y} %{x}\n[resource:y]\ntype = none\n",
          MAIN ":7: release: [listener:a] does not load 'y' before 'x'\n" MAIN
               ":7: release: [listener:a] does not load 'x' before 'x'" },
        { L "resources = y, x\n" X "release = sh %{y}\n[resource:y]\ntype = none\n", NULL },
        { L "resources = x\n" X "environment = Y=%{y}\n[resource:y]\ntype = none\n",
          MAIN ":7: environment: [listener:a] does not load 'y' before 'x'" },
        { L "resources = x\n[resource:x]\ntype = directory\npath = /r/%{y}\n[resource:y]\ntype = none\n",
          MAIN ":6: path: [listener:a] does not load 'y' before 'x'" },
        { "[resource:x]\ntype = directory\npath = /run/%l/%a\n",
          MAIN ":3: path = /run/%l/%a: it must differ between connections, by %i, %h, %p or %{name}" },
        { "[resource:x]\ntype = directory\npath = /run/../%i\n",
          MAIN ":3: path: the path has a component . or .." },
        { "[resource:x]\ntype = directory\npath = /run/%h\n[resource:y]\ntype = directory\npath = /run/%p\n",
          NULL },
        { "[resource:x]\ntype = unit\nunit = a@%i.service\nmode = ignore-dependencies\non_exit = keep\n"
          "on_load_failure = release\n[resource:y]\ntype = unit\nunit = a-%h.slice\n",
          NULL },
        { "[resource:x]\ntype = unit\nunit = a@%l.service\n",
          MAIN ":3: unit = a@%l.service: it must differ between connections, by %i, %h, %p or %{name}" },
        { "[resource:x]\ntype = unit\nunit = a@%i\n",
          MAIN ":3: unit = a@%i: it does not end in .service, .socket, .target or the like" },
        { "[resource:x]\ntype = unit\nunit = a%i@.service\n",
          MAIN ":3: unit = a%i@.service: it has no instance between the '@' and the suffix" },
        { "[resource:x]\ntype = unit\nunit = /run/%i.service\n",
          MAIN ":3: unit = /run/%i.service: it has a character that no unit's name may have" },
        { "[resource:x]\ntype = unit\nunit = a%%@%i.service\n",
          MAIN ":3: unit = a%%@%i.service: it has a character that no unit's name may have" },
        { "[resource:x]\ntype = unit\nunit = %i.scope\n",
          MAIN ":3: unit = %i.scope: units of that type cannot be started" },
        { "[resource:x]\ntype = unit\nunit = a@%q.service\n", MAIN ":3: unit: %q is not known here" },
        { "[resource:x]\ntype = unit\nunit = a@%i.service\nmode = 0700\n",
          MAIN ":4: mode = 0700: it must be one of replace, fail, ignore-dependencies, ignore-requirements" },

        /* the file system */
        { X "release = /no/such/program %i\n", MAIN ":4: release: there is no program /no/such/program" },
        { X "release = no-such-program\n",
          MAIN ":4: release: there is no program no-such-program in "
               "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" },
        { X "release = /etc/passwd\n", MAIN ":4: release: /etc/passwd cannot be executed" },
        { X "working_directory = /no/such\n",
          MAIN ":4: working_directory = /no/such: No such file or directory" },
        { X "working_directory = /etc/passwd\n",
          MAIN ":4: working_directory = /etc/passwd: Not a directory" },

        /* all of them, in the order of the lines */
        { "[listener:a]\nhandler = x\nnodelay = x\n[resource:r]\npath = /x\n[nonsense]\nx = "
          "1\n[daemon]\nlog_queue = 0\n",
          MAIN ":1: [listener:a] has no listen\n" MAIN
               ":2: handler = x: it must be one of discard, echo, plugin:\n" MAIN
               ":3: nodelay = x: it must be yes or no (true, false, on, off, 1, 0)\n" MAIN
               ":4: [resource:r] has no type\n" MAIN ":6: unknown section [nonsense]\n" MAIN
               ":9: log_queue = 0: it must be a number, 1 to 1048576" },
};

START_TEST(test_faults)
{
        enter();
        for (size_t i = 0; i < ARRAY_SIZE(fault_rows); i++) {
                write_file(MAIN, fault_rows[i].text);
                if (fault_rows[i].faults)
                        assert_faults(fault_rows[i].text, fault_rows[i].faults);
                else
                        (void)config_unref(load_file(MAIN));
        }
        leave();
}
END_TEST

/* ---- the limits of inih ---- */

#define DIGITS_49 "1234567890123456789012345678901234567890123456789"

START_TEST(test_items)
{
        static const struct {
                const char *text, *items;
        } rows[] = {
                { "8-11", "8 9 10 11" },
                { "7-7", "7" },
                { "0-2", "0 1 2" },
                { "08-11", "08 09 10 11" },
                { "098-101", "098 099 100 101" },
                { "9-011", "9 10 11" },
                { "00-01, 0", "00 01 0" },
                { "tty-1 tty-2,tty-3", "tty-1 tty-2 tty-3" },
                { "1-2-3, 4-, -5, 1-x, 6", "1-2-3 4- -5 1-x 6" },
                { "999999999999999998-999999999999999999", "999999999999999998 999999999999999999" },
                { "1000000000000000000-1000000000000000001", "1000000000000000000-1000000000000000001" },
                { "a,\n  b\n  3-4", "a b 3 4" },
                { "\"1-2\"", "1 2" },
        };

        enter();
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char text[256], all[256] = "";

                (void)snprintf(text, sizeof(text), "[resource:x]\ntype = pool\nitems = %s\n", rows[i].text);
                _cleanup_(config_unrefp) struct config *config = load(text);
                char **items = config->resources[0]->items;

                for (size_t k = 0; items[k]; k++)
                        (void)snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", k > 0 ? " " : "",
                                       items[k]);
                ck_assert_msg(streq(all, rows[i].items), "%s is %s", rows[i].text, all);
        }
        leave();
}
END_TEST

/* As many as there may be: no time goes by. */
START_TEST(test_items_many)
{
        enter();
        _cleanup_(config_unrefp) struct config *config =
                load("[resource:x]\ntype = pool\nitems = 000000-999999\n");
        ck_assert_uint_eq(strv_length(config->resources[0]->items), 1000000);
        ck_assert_str_eq(config->resources[0]->items[4711], "004711");
        leave();
}
END_TEST

#define FAILS ": warning: it fails for everybody on [listener:a]: "

/* What is allowed, and hardly meant. */
START_TEST(test_warnings)
{
        static const char others[] = "[resource:ports]\ntype = pool\nitems = 1-5\n"
                                     "[resource:lines]\ntype = pool\nitems = 1-5\n"
                                     "[resource:x]\ntype = none\n"
                                     "[resource:d]\ntype = directory\npath = /r/%h\n"
                                     "[resource:c]\ntype = exec\nload = sh --id=%h -%p %i\nrelease = sh %p\n"
                                     "[resource:u]\ntype = unit\nunit = x@%h.service\n";
        static const struct {
                const char *listen, *keys, *warnings;
        } rows[] = {
                { "127.0.0.1:1", "resources = ports\n", "" },
                { "127.0.0.1:1", "reuse_port = yes\nresources = x\n", "" },
                { "127.0.0.1:1", "reuse_port = yes\nresources = ports\nenabled = no\n", "" },
                { "127.0.0.1:1", "reuse_port = yes\nresources = ports, x, lines\n",
                  MAIN ":3: reuse_port = yes: warning: daemons that share the port do not share the pool "
                       "'ports'\n" MAIN ":3: reuse_port = yes: warning: daemons that share the port do not "
                       "share the pool 'lines'\n" },
                { "127.0.0.1:1", "hello = yes\nresources = d, c, u\n", "" },
                { "127.0.0.1:1", "resources = d, c, u\nenabled = no\n", "" },
                { "127.0.0.1:1", "resources = d, c, u\n",
                  MAIN ":14: path = /r/%h" FAILS "%h is empty\n" MAIN ":21: unit = x@%h.service" FAILS
                       "it has no instance between the '@' and the suffix\n" },
                { "/s @x", "hello = yes\nresources = d, c\n",
                  MAIN ":19: release = sh %p" FAILS "%p is empty\n" },
        };

        enter();
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_strv_free_ char **warnings = NULL;
                char text[1024], all[512] = "";

                (void)snprintf(text, sizeof(text), "[listener:a]\nlisten = %s\n%s%s", rows[i].listen,
                               rows[i].keys, others);
                _cleanup_(config_unrefp) struct config *config = load(text);

                ck_assert_int_eq(config_warnings(config, &warnings), 0);
                for (size_t k = 0; warnings && warnings[k]; k++)
                        (void)snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s\n", warnings[k]);
                ck_assert_str_eq(all, rows[i].warnings);
        }
        leave();
}
END_TEST

START_TEST(test_limits)
{
        char text[2048], word[512], expected[512];

        enter();
        for (size_t length = 196; length <= 420; length++) { /* of the line, with its key */
                memset(word, 'x', sizeof(word));
                word[length - strlen("greeting=")] = '\0';
                int n = snprintf(text, sizeof(text), L "greeting=%s\n more\nidle_timeout=x", word);
                write_bytes(MAIN, text, (size_t)n);
                (void)snprintf(
                        expected, sizeof(expected), "%s%s",
                        length > 198 ? MAIN
                                ":3: the line is longer than 198 bytes; an indented line goes on with it\n"
                                     : "",
                        MAIN
                        ":5: idle_timeout = x: it must be a time such as 30s or 1min 30s, at least 1ms, or "
                        "infinity");
                assert_faults(text, expected);
        }

        /* With a carriage return, as a continuation, as a comment, as the last line, as a header. */
        memset(word, 'x', sizeof(word));
        word[198 - strlen(" ")] = '\0';
        (void)snprintf(text, sizeof(text), L "greeting=a\n %s\n", word);
        _cleanup_(config_unrefp) struct config *config = load(text);
        ck_assert_uint_eq(strlen(config->listeners[0]->greeting), 2 + 197);
        (void)snprintf(text, sizeof(text), L "greeting=a\n %s\r\n", word);
        write_file(MAIN, text);
        assert_faults(text, MAIN ":4: the line is longer than 198 bytes; an indented line goes on with it");
        (void)snprintf(text, sizeof(text), L "#x%s\ngreeting=a", word);
        write_file(MAIN, text);
        assert_faults(text, MAIN ":3: the line is longer than 198 bytes; an indented line goes on with it");
        (void)snprintf(text, sizeof(text), L "[%s]\nlisten = x\n" L, word + 100);
        write_file(MAIN, text);
        assert_faults(text, MAIN ":3: the name of the section is longer than 49 bytes\n" MAIN
                                 ":6: listen is given twice in [listener:a], first in line 2");
        (void)snprintf(text, sizeof(text), L "[xxxx%s]\nlisten = x\n", word);
        write_file(MAIN, text);
        assert_faults(text, MAIN ":3: the line is longer than 198 bytes; an indented line goes on with it");

        static const struct {
                const char *text, *faults;
        } rows[] = {
                { "[" DIGITS_49 "]\n", MAIN ":1: unknown section [" DIGITS_49 "]" },
                { "[" DIGITS_49 "0]\nx=1\n", MAIN ":1: the name of the section is longer than 49 bytes" },
                { L DIGITS_49 " = x\n  y\n", MAIN ":3: unknown key '" DIGITS_49 "' in [listener:a]" },
                { L DIGITS_49 "0\t= x\n  y\n", MAIN ":3: the key is longer than 49 bytes" },
        };
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                write_file(MAIN, rows[i].text);
                assert_faults(rows[i].text, rows[i].faults);
        }

        static const char nul[] = L "greeting = a\0b\n c\nidle_timeout = x\n", nul_first[] = L "\0\n";
        write_bytes(MAIN, nul, sizeof(nul) - 1);
        assert_faults(
                "NUL", MAIN
                ":3: a control character (0x00) in the line\n" MAIN
                ":5: idle_timeout = x: it must be a time such as 30s or 1min 30s, at least 1ms, or infinity");
        write_bytes(MAIN, nul_first, sizeof(nul_first) - 1);
        assert_faults("NUL", MAIN ":3: a control character (0x00) in the line");
        leave();
}
END_TEST

START_TEST(test_lines)
{
        static const struct {
                const char *text, *greeting;
        } rows[] = {
                { L "greeting = a\n  b\n\tc\n", "a b c" },
                { L "greeting = a\n\n  # remark ; x\n; other\n  b = c\n   \n d\n", "a b = c d" },
                { L "greeting =\n  a\n", "a" },
                { L "greeting = a\n  [b]\n", "a [b]" },
                { L "  greeting = a\n", NULL }, /* goes on with listen */
                { "[listener:a]\n  greeting = a\nlisten = 127.0.0.1:1\n", "a" },
                { "\xef\xbb\xbf" L "greeting: a:b\r\n  c\r\n", "a:b c" },
                { "\xef\xbb\xbf  # x\n" L "greeting = \"a\"", "\"a\"" },
                { L "greeting = a;b;\n", "a;b;" },
                { L "greeting = a # b\n", "a # b" },
                { L "[daemon]\n[listener:a]\ngreeting = a\n", "a" },
                { L "[daemon]\nlog_queue = 5\n[listener:a]\n  greeting = b\n", "b" },
        };

        enter();
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                if (!rows[i].greeting) {
                        write_file(MAIN, rows[i].text);
                        assert_faults(rows[i].text,
                                      MAIN ":2: listen = greeting: it must be host:port, [v6]:port, *:port, "
                                           "/path.sock, @abstract or systemd:NAME\n" MAIN
                                           ":2: listen = =: it must be host:port, [v6]:port, *:port, "
                                           "/path.sock, @abstract or systemd:NAME\n" MAIN
                                           ":2: listen = a: it must be host:port, [v6]:port, *:port, "
                                           "/path.sock, @abstract or systemd:NAME");
                        continue;
                }
                _cleanup_(config_unrefp) struct config *config = load(rows[i].text);
                ck_assert_str_eq(config->listeners[0]->greeting, rows[i].greeting);
        }
        leave();
}
END_TEST

/* ---- several files ---- */

START_TEST(test_drop_ins)
{
        char where[CONFIG_WHERE_MAX];

        enter();
        write_file(MAIN ".d/20-b.conf", "[listener:a]\nbacklog = 20\nsocket_mode = 0644\n");
        write_file(MAIN ".d/10-a.conf",
                   "[listener:a]\nbacklog = 10\nidle_timeout=10\n[listener:b]\nlisten=@b\n");
        write_file(MAIN ".d/30.conf", "[daemon]\nlog_level = err\n[listener:a]\nidle_timeout =\n");
        write_file(MAIN ".d/.hidden.conf", "[nonsense]\n");
        write_file(MAIN ".d/.conf", "[nonsense]\n");
        write_file(MAIN ".d/x.conf~", "[nonsense]\n");
        write_file(MAIN ".d/README", "[nonsense]\n");
        _cleanup_(config_unrefp) struct config *config = load(L "backlog = 1\nidle_timeout = 5\n");
        const struct listener_config *l = config->listeners[0];
        ck_assert_int_eq(l->backlog, 20);
        ck_assert_uint_eq(l->socket_mode, 0644);
        ck_assert_uint_eq(l->idle_timeout, USEC_INFINITY);
        ck_assert_int_eq(config->daemon.log.level, LOG_ERR);
        ck_assert_uint_eq(config->n_listeners, 2);

        ck_assert_str_eq(config_where(config, "listener:a", "backlog", where),
                         MAIN ".d/20-b.conf:2: backlog = 20");
        ck_assert_str_eq(config_where(config, "listener:a", "listen", where),
                         MAIN ":2: listen = 127.0.0.1:1");
        ck_assert_str_eq(config_where(config, "listener:a", "idle_timeout", where),
                         MAIN ": [listener:a] idle_timeout = infinity (the default)");
        ck_assert_str_eq(config_where(config, "daemon", "state_directory", where),
                         MAIN ": [daemon] state_directory = /var/lib/tetherd (the default)");
        ck_assert_str_eq(config_where(config, "listener:none", "listen", where),
                         MAIN ": [listener:none] listen");
        ck_assert_str_eq(config_where(config, "daemon", "none", where), MAIN ": [daemon] none");

        /* Faults name their file, files in the order of reading. */
        write_file(MAIN, L "backlog = x\nnodelay = y\n");
        write_file(MAIN ".d/20-b.conf", "[listener:a]\nbacklog = z\nbacklog = 1\nlisten =\n");
        write_file(MAIN ".d/10-a.conf", "[listener:c]\nhello_max = 0\n");
        ck_assert_int_eq(symlink("nowhere", MAIN ".d/05.conf"), 0);
        ck_assert_int_eq(mkdir(MAIN ".d/40.conf", 0700), 0);
        assert_faults("drop-ins",
                      MAIN ":1: [listener:a] has no listen\n" MAIN
                           ":3: backlog = x: it must be a number, 1 to 2147483647\n" MAIN
                           ":4: nodelay = y: it must be yes or no (true, false, on, off, 1, 0)\n" MAIN
                           ".d/05.conf: cannot be read: No such file or directory\n" MAIN
                           ".d/10-a.conf:1: [listener:c] has no listen\n" MAIN
                           ".d/10-a.conf:2: hello_max = 0: it must be a number, 1 to 4096\n" MAIN
                           ".d/20-b.conf:2: backlog = z: it must be a number, 1 to 2147483647\n" MAIN
                           ".d/20-b.conf:3: backlog is given twice in [listener:a], first in line 2\n" MAIN
                           ".d/40.conf: cannot be read: Is a directory");
        leave();
}
END_TEST

START_TEST(test_unreadable)
{
        enter();
        assert_faults("no file", MAIN ": cannot be read: No such file or directory");
        ck_assert_int_eq(mkdir(MAIN, 0700), 0);
        assert_faults("a folder", MAIN ": cannot be read: Is a directory");
        ck_assert(rmdir(MAIN) == 0 && rmdir(MAIN ".d") == 0);
        write_file(MAIN, L);
        (void)config_unref(load_file(MAIN)); /* no FILE.d */
        write_file(MAIN ".d", "");
        assert_faults("no folder", MAIN ".d: cannot be read: Not a directory");
        leave();
}
END_TEST

/* ---- the rest ---- */

START_TEST(test_environment)
{
        enter();
        (void)setenv("RUNTIME_DIRECTORY", "/run/tetherd-a:/run/other", 1);
        (void)setenv("STATE_DIRECTORY", "/var/lib/tetherd-a", 1);
        _cleanup_(config_unrefp) struct config *config = load(L);
        ck_assert_str_eq(config->daemon.runtime_directory, "/run/tetherd-a");
        ck_assert_str_eq(config->daemon.state_directory, "/var/lib/tetherd-a");
        _cleanup_(config_unrefp) struct config *given =
                load("[daemon]\nruntime_directory = /x\nstate_directory =\n");
        ck_assert_str_eq(given->daemon.runtime_directory, "/x");
        ck_assert_str_eq(given->daemon.state_directory, "/var/lib/tetherd-a");
        (void)setenv("RUNTIME_DIRECTORY", "relative", 1);
        (void)setenv("STATE_DIRECTORY", "", 1);
        _cleanup_(config_unrefp) struct config *bad = load(L);
        assert_daemon_defaults(&bad->daemon);
        leave();
}
END_TEST

START_TEST(test_needs_restart)
{
        static const struct {
                const char *text, *key;
        } rows[] = {
                { L, NULL },
                { L "backlog = 5\n", NULL },
                { "[daemon]\nlog_level = err\ndrain_timeout = 5\nmax_connections = 3\n", NULL },
                { "[daemon]\nruntime_directory = /run/tetherd\npreserve = restart\n", NULL },
                { "[daemon]\nruntime_directory = /x\n", "runtime_directory" },
                { "[daemon]\nstate_directory = /x\n", "state_directory" },
                { "[daemon]\npreserve = no\n", "preserve" },
        };

        enter();
        _cleanup_(config_unrefp) struct config *running = load(L);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_(config_unrefp) struct config *wanted = load(rows[i].text);
                ck_assert_pstr_eq(config_needs_restart(running, wanted), rows[i].key);
        }
        leave();
}
END_TEST

START_TEST(test_references)
{
        enter();
        struct config *config = load(L);
        ck_assert_ptr_eq(config_ref(config), config);
        ck_assert_ptr_null(config_unref(config));
        ck_assert_str_eq(config->listeners[0]->name, "a");
        ck_assert_ptr_null(config_unref(config));
        ck_assert_ptr_null(config_unref(NULL));
        leave();
}
END_TEST

/* Every row can be what the struct says, and every default is a value that its own row accepts. */
START_TEST(test_table)
{
        enter();
        for (size_t i = 0; i < n_keys; i++) {
                const struct key *key = &keys[i];
                ck_assert_msg(key->help && *key->help != '\0' && strlen(key->help) < 100, "%s", key->name);
                ck_assert_msg(key_find(key->section, key->name, key->kinds) == key, "%s", key->name);
                ck_assert_msg(key->kinds == 0 || key->section == SECTION_RESOURCE, "%s", key->name);
                ck_assert_msg((key->type == KEY_WORD || key->type == KEY_HANDLER) == (key->words != NULL),
                              "%s", key->name);
                ck_assert_msg(key->type >= KEY_FOLDER || key->size == 1 || key->size == 4 || key->size == 8,
                              "%s", key->name);
                if (key->section != SECTION_LISTENER || *key->standard == '\0')
                        continue;
                char text[256];
                (void)snprintf(text, sizeof(text), L "%s = %s\n", key->name, key->standard);
                _cleanup_(config_unrefp) struct config *config = load(text);
                assert_listener_defaults(config->listeners[0]);
        }
        leave();
}
END_TEST

/* The file that is installed: it loads, and it shows every key with its default. */
START_TEST(test_installed_file)
{
        char text[32768], line[128];
        FILE *file = fopen("conf/tetherd.conf", "re");

        ck_assert_msg(file != NULL, "to be run at the top of the source tree");
        text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
        (void)fclose(file);
        _cleanup_(config_unrefp) struct config *config = load_file("conf/tetherd.conf");
        ck_assert_uint_eq(config->n_listeners, 1);
        ck_assert_uint_eq(config->listeners[0]->n_endpoints, 2);
        ck_assert_uint_eq(config->listeners[0]->n_resources, 0);
        assert_listener_defaults(config->listeners[0]);
        for (size_t i = 0; i < n_keys; i++) {
                bool is_example = *keys[i].standard == '\0'; /* it may show a value */
                (void)snprintf(line, sizeof(line), "\n%s%s =%s%s%s", streq(keys[i].name, "listen") ? "" : "#",
                               keys[i].name, is_example ? "" : " ", keys[i].standard, is_example ? "" : "\n");
                ck_assert_msg(strstr(text, line) ||
                                      (keys[i].kinds == KIND_UNIT && streq(keys[i].name, "mode")),
                              "%s", line);
        }
}
END_TEST

UNIT_MAIN("config", test_example, test_rich, test_plugin, test_print_fixpoint, test_print_text,
          test_print_wrap, test_print_wrap_hash, test_print_first_hash, test_keepalive, test_faults,
          test_items, test_items_many, test_warnings, test_limits, test_lines, test_drop_ins, test_unreadable,
          test_environment, test_needs_restart, test_references, test_table, test_installed_file)
